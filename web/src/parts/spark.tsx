/** Events per minute over the last half hour. */
export function Spark({ minutes, now }: { minutes: { minute: string; n: number }[]; now: number }) {
  const bars = 30
  const start = Math.floor(now / 60_000) - bars + 1
  const values = new Array<number>(bars).fill(0)
  for (const m of minutes) {
    const i = Math.floor(new Date(m.minute).getTime() / 60_000) - start
    if (i >= 0 && i < bars) values[i] = m.n
  }
  const most = Math.max(1, ...values)
  return (
    <svg className="spark" viewBox={`0 0 ${bars * 4} 28`} preserveAspectRatio="none" role="img" aria-label={`Events per minute over the last half hour, at most ${most}`}>
      {values.map((v, i) => <rect key={i} x={i * 4} width="3" y={28 - (27 * v) / most - (v > 0 ? 1 : 0)} height={(27 * v) / most + (v > 0 ? 1 : 0)} />)}
    </svg>
  )
}
