// The comparison of two releases: a metric each row, and the plots of the one chosen.
import { useMemo, useState } from 'react'
import type uPlot from 'uplot'
import type { Evidence, Point } from '../api'
import { count, fixed, metricName, percent, points as pts } from '../format'
import { useGet, useLive } from '../live'
import { Chart } from './chart'
import { Interval, scaleOf } from './interval'

const none: Point[] = []

/** All points of a gate's newest run: what was stored, and what came since. */
export function useSeries(release: string): Point[] | undefined {
  const { data } = useGet<{ points: Point[] }>(`/v1/gates/${encodeURIComponent(release)}/series?points=400`)
  const live = useLive((l) => l.points[release] ?? none)
  return useMemo(() => {
    if (!data) return undefined
    const all = new Map(data.points.map((p) => [p.seq, p]))
    const run = live.at(-1)?.process ?? data.points.at(-1)?.process
    if (data.points.at(-1)?.process !== run) all.clear()
    for (const p of live) if (p.process === run) all.set(p.seq, p)
    return [...all.values()].sort((a, b) => a.seq - b.seq)
  }, [data, live])
}

export function Comparison({ release, evidence, lead }: { release: string; evidence?: Evidence; lead?: string }) {
  const series = useSeries(release)
  const last = series?.at(-1)
  const [chosen, choose] = useState<string>()
  if (!series || !last) return null
  const guards = last.guards
  const worst = [...guards].sort((a, b) => b.log_e_harm - a.log_e_harm)[0]
  const metric = chosen ?? (guards.some((g) => g.metric === lead) ? lead! : worst?.metric) ?? ''
  const scale = scaleOf(guards.flatMap((g) => [g.cs[0], g.cs[1]]))
  const detail = new Map(evidence?.guards.map((g) => [g.metric, g]))
  return (
    <section className="comparison" aria-label={`Quality of ${release} against ${last.baseline}`}>
      <div className="metrics">
        <table>
          <caption className="hidden">Metrics of the comparison. Choose one to see its plot.</caption>
          <thead>
            <tr>
              <th scope="col">Metric</th>
              <th scope="col" className="num"><span className="key baseline">baseline</span></th>
              <th scope="col" className="num"><span className="key candidate">candidate</span></th>
              <th scope="col" className="wide-cell">effect, ±{100 * scale} points</th>
              <th scope="col" className="num">log E</th>
            </tr>
          </thead>
          <tbody>
            {guards.map((g) => (
              <tr key={g.metric} className={g.metric === metric ? 'chosen' : undefined}>
                <th scope="row">
                  <button type="button" aria-pressed={g.metric === metric} onClick={() => choose(g.metric)}>
                    {metricName(g.metric)}{detail.get(g.metric)?.critical && <small> critical</small>}
                  </button>
                </th>
                <td className="num">{percent(g.mean[0])}</td>
                <td className="num">{percent(g.mean[1])}</td>
                <td className="wide-cell"><Interval effect={g.effect} cs={g.cs} margin={g.margin} scale={scale} /></td>
                <td className="num">{fixed(g.log_e_harm, 1)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <EffectPlot series={series} metric={metric} />
      <MeanPlot series={series} metric={metric} />
      <WealthPlot series={series} metric={metric} />
    </section>
  )
}

const xOf = (s: Point[]) => s.map((p) => p.entered)
const guardOf = (p: Point, metric: string) => p.guards.find((g) => g.metric === metric)
const units = (v: number) => count(Math.round(v))

function EffectPlot({ series, metric }: { series: Point[]; metric: string }) {
  const gs = series.map((p) => guardOf(p, metric))
  const data: uPlot.AlignedData = [xOf(series), gs.map((g) => g?.cs[0] ?? null), gs.map((g) => g?.cs[1] ?? null), gs.map((g) => g?.effect ?? null)]
  // The sequence begins as wide as the scale: the plot shows where it has become useful.
  const late = gs.slice(Math.floor(gs.length * 0.35))
  const most = scaleOf(late.flatMap((g) => (g ? [g.cs[0], g.cs[1]] : [])))
  const margin = gs.at(-1)?.margin ?? 0
  const g = gs.at(-1)
  return (
    <figure className="plot">
      <figcaption><b>{metricName(metric)}: effect of the candidate</b><span>percentage points, with its 95 % confidence sequence, by units compared</span></figcaption>
      <Chart
        data={data} height={230} range={[-most, most]} x={units} y={(v) => pts(v, most < 0.1 ? 1 : 0)} xLabel="units"
        series={[
          { label: '', color: '--candidate-line', width: 1 },
          { label: '', color: '--candidate-line', width: 1 },
          { label: 'effect', color: '--candidate', width: 2, value: (v) => pts(v) },
        ]}
        bands={[{ between: [2, 1], color: '--candidate-band' }]}
        rules={[{ at: 0, label: '', color: '--line' }, { at: -margin, label: `margin ${pts(-margin)}`, color: '--bad', dash: [4, 4], under: true }]}
        label={g ? `Effect on ${metricName(metric)}: ${pts(g.effect)} points, 95 % sequence ${pts(g.cs[0])} to ${pts(g.cs[1])} after ${units(series.at(-1)!.entered)} units; margin ${pts(-margin)}` : metricName(metric)}
      />
    </figure>
  )
}

function MeanPlot({ series, metric }: { series: Point[]; metric: string }) {
  const gs = series.map((p) => guardOf(p, metric))
  const data: uPlot.AlignedData = [xOf(series), gs.map((g) => g?.mean[0] ?? null), gs.map((g) => g?.mean[1] ?? null)]
  const late = gs.slice(Math.floor(gs.length * 0.1)).flatMap((g) => (g ? [g.mean[0], g.mean[1]] : []))
  const low = Math.max(0, Math.floor(10 * (Math.min(1, ...late) - 0.04)) / 10)
  const g = gs.at(-1)
  return (
    <figure className="plot">
      <figcaption><b>Mean per arm</b><span><i className="key baseline">baseline</i> <i className="key candidate">candidate</i></span></figcaption>
      <Chart
        data={data} height={190} range={[low, 1 + 0.06 * (1 - low)]} x={units} y={(v) => percent(v, Number.isInteger(Math.round(1000 * v) / 10) ? 0 : 1)} xLabel="units"
        series={[
          { label: 'baseline', color: '--baseline', width: 2, value: (v) => percent(v) },
          { label: 'candidate', color: '--candidate', width: 2, value: (v) => percent(v) },
        ]}
        label={g ? `Mean of ${metricName(metric)}: baseline ${percent(g.mean[0])}, candidate ${percent(g.mean[1])}` : metricName(metric)}
      />
    </figure>
  )
}

function WealthPlot({ series, metric }: { series: Point[]; metric: string }) {
  const last = series.at(-1)!
  const overall = series.map((p) => p.overall.harm)
  const one = series.map((p) => guardOf(p, metric)?.log_e_harm ?? null)
  const rollback = last.thresholds?.rollback
  const hold = last.thresholds?.hold
  const top = Math.max((rollback ?? 3) * 1.25, ...overall) + 0.5
  const bottom = Math.max(-4, Math.min(-1, ...overall) - 0.5)
  const rules = [{ at: 0, label: '', color: '--line' }]
  return (
    <figure className="plot">
      <figcaption><b>Evidence of harm, log E</b><span><i className="key overall">all metrics</i> <i className="key candidate">this one</i></span></figcaption>
      <Chart
        data={[xOf(series), one, overall]} height={190} range={[bottom, top]} x={units} y={(v) => fixed(v, Number.isInteger(v) ? 0 : 1)} xLabel="units"
        series={[
          { label: 'this metric', color: '--candidate-line', width: 1.5, value: (v) => fixed(v) },
          { label: 'all metrics', color: '--ink', width: 2, value: (v) => fixed(v) },
        ]}
        rules={[
          ...rules,
          ...(rollback != null ? [{ at: rollback, label: `roll back ${fixed(rollback)}`, color: '--bad', dash: [4, 4] }] : []),
          ...(hold != null && rollback != null && rollback - hold > 0.4 ? [{ at: hold, label: `hold ${fixed(hold)}`, color: '--wait', dash: [2, 4], under: true }] : []),
        ]}
        label={`Evidence of harm: log E ${fixed(overall.at(-1)!)}${rollback != null ? ` of ${fixed(rollback)} needed to roll back` : ''}`}
      />
    </figure>
  )
}
