import { points } from '../format'

/** An effect with its confidence sequence, zero and the margin, to scale. */
export function Interval({ effect, cs, margin, scale, label }: { effect: number; cs: [number, number]; margin: number; scale: number; label?: string }) {
  const at = (v: number) => 50 + (50 * Math.max(-scale, Math.min(scale, v))) / scale
  const bad = cs[1] < -margin
  return (
    <svg className={bad ? 'interval bad' : 'interval'} viewBox="0 0 100 14" preserveAspectRatio="none" role="img"
      aria-label={label ?? `effect ${points(effect)} points, 95 % sequence ${points(cs[0])} to ${points(cs[1])}, margin ${points(-margin)}`}>
      <line className="zero" x1="50" x2="50" y1="0" y2="14" />
      {margin > 0 && <line className="margin" x1={at(-margin)} x2={at(-margin)} y1="0" y2="14" />}
      <rect className="range" x={at(cs[0])} width={Math.max(0.8, at(cs[1]) - at(cs[0]))} y="5" height="4" rx="0" />
      <rect className="point" x={at(effect) - 0.7} width="1.4" y="2" height="10" />
    </svg>
  )
}

/** A round scale that holds all intervals. */
export function scaleOf(values: number[]): number {
  const most = Math.max(0.02, ...values.map(Math.abs))
  return [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1].find((s) => s >= most) ?? 1
}
