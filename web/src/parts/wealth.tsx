import { fixed } from '../format'

/** Evidence against the release as a bar that fills towards its threshold. */
export function Wealth({ logE, threshold, alpha }: { logE: number; threshold: number; alpha?: number }) {
  const end = Math.max(threshold * 1.25, logE * 1.08, 1)
  const at = (v: number) => `${(100 * Math.max(0, Math.min(end, v))) / end}%`
  const crossed = logE >= threshold
  return (
    <div className={crossed ? 'wealth crossed' : 'wealth'} role="img"
      aria-label={`log E ${fixed(logE)}, threshold ${fixed(threshold)}: ${crossed ? 'crossed' : 'not crossed'}`}>
      <svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
        <rect className="track" x="0" y="2" width="100" height="6" />
        <rect className="fill" x="0" y="2" width={at(logE).replace('%', '')} height="6" />
        <rect className="mark" x={Number(at(threshold).replace('%', '')) - 0.2} y="0" width="0.5" height="10" />
      </svg>
      <div className="wealth-legend">
        <span><b>log E {fixed(logE)}</b></span>
        <span>threshold {fixed(threshold)}{alpha ? <> = ln(1/{alpha})</> : null}</span>
      </div>
    </div>
  )
}
