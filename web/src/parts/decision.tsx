import type { Case, Decision, GuardRead } from '../api'
import { count, duration, fixed, metricName, moment, percent, points, shortID } from '../format'
import { useGet, useNow } from '../live'
import { casePath, Link, releasePath } from '../router'
import { ReleaseLink } from './chips'
import { Interval, scaleOf } from './interval'
import { Wealth } from './wealth'

const headlines: Record<string, string> = {
  rollback: 'Rolled back',
  quarantine: 'Quarantined',
  hold: 'Held',
  resume: 'Resumed',
  advance: 'Advanced',
  expire: 'Ended',
}
const tones: Record<string, string> = { rollback: 'bad', quarantine: 'bad', hold: 'wait', advance: 'good' }

/** A decision with its evidence: what, when, how sure, and where to look. */
export function DecisionCard({ d, compact }: { d: Decision; compact?: boolean }) {
  const now = useNow()
  const top = d.top?.[0]
  const until = d.reversible_until ? (new Date(d.reversible_until).getTime() - now) / 1000 : 0
  const ack = d.acknowledgements?.at(-1)
  const blamed = (d.top ?? []).filter((t, i) => i === 0 || (t.effect < 0 && t.log_e_harm > 0))
  const scale = scaleOf(blamed.flatMap((t) => [t.cs[0], t.cs[1]]))
  return (
    <article className={`decision ${tones[d.action] ?? 'idle'}`} aria-label={`Decision: ${d.action} of ${d.release}`} data-decision={d.action}>
      <header>
        <p className="verdict">{headlines[d.action] ?? d.action}{d.dry_run && ' (dry run)'}</p>
        <h2><ReleaseLink release={d.release} /></h2>
        <p className="when">
          <time dateTime={d.time}>{moment(d.time)}</time> against <ReleaseLink release={d.baseline} />
          {!ack && d.carried_out && <> · carried out {moment(d.carried_out)}</>}
          {ack && <> · {ack.actuator} {ack.outcome === 'done' ? `confirmed${ack.share != null ? `: ${percent(ack.share, 0)} of traffic` : ''}` : `failed after ${ack.attempts} tries`}</>}
          {until > 0 && <> · reversible for {duration(until)}</>}
        </p>
      </header>
      <p className="reason">{d.reason}</p>
      {d.threshold ? <Wealth logE={d.log_e} threshold={d.threshold} alpha={d.alpha} /> : null}
      <dl className="figures">
        {top && <Figures top={top} confidence={d.confidence} />}
        <div className="figure"><dt>Units compared</dt><dd>{count(d.n[1])} <i>vs</i> {count(d.n[0])}<small>candidate, baseline</small></dd></div>
        <div className="figure"><dt>False alarm rate</dt><dd>{d.alpha ? `≤ ${percent(d.alpha)}` : '–'}<small>{d.alpha_total ? `all rules together ${percent(d.alpha_total)}` : 'by this rule'}</small></dd></div>
      </dl>
      {!compact && blamed.length > 1 && (
        <table className="blame">
          <caption>Most to blame</caption>
          <tbody>
            {blamed.slice(0, 4).map((t) => (
              <tr key={`${t.metric} ${t.segment}`}>
                <th scope="row">{metricName(t.metric)}{t.segment !== 'all' && <small> {t.segment}</small>}</th>
                <td className="num">{points(t.effect)}</td>
                <td className="wide-cell"><Interval effect={t.effect} cs={t.cs} margin={t.margin} scale={scale} /></td>
                <td className="num quiet">log E {fixed(t.log_e_harm, 1)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {top && d.action !== 'advance' && <Worst release={d.release} metric={top.metric} />}
      <details className="proof">
        <summary>What this promises, and how to check it</summary>
        {d.guarantee && <blockquote>{d.guarantee}</blockquote>}
        {d.caveats?.map((c) => <p key={c} className="caveat">{c}</p>)}
        <dl className="facts">
          <dt>Rule</dt><dd><code>{d.rule}</code></dd>
          <dt>Policy</dt><dd>{d.policy_name} <code>{d.policy_hash}</code></dd>
          <dt>Evidence</dt><dd>number {d.evidence_seq}, <code title={d.evidence}>{shortID(d.evidence)}</code>, chain <code>{d.evidence_hash}</code></dd>
          <dt>State</dt><dd><code>{d.state_hash}</code></dd>
          <dt>Decision</dt><dd><code>{d.id}</code></dd>
        </dl>
      </details>
      {compact && <p><Link to={releasePath(d.release)}>See the evidence grow</Link></p>}
    </article>
  )
}

function Figures({ top, confidence }: { top: GuardRead; confidence: number }) {
  return (
    <>
      <div className="figure"><dt>{metricName(top.metric)}</dt><dd>{percent(top.mean[1])} <i>vs</i> {percent(top.mean[0])}<small>candidate, baseline</small></dd></div>
      <div className="figure"><dt>Effect</dt><dd>{points(top.effect)} <i>points</i><small>{percent(confidence || 0.95, 0)} sequence {points(top.cs[0])} to {points(top.cs[1])}</small></dd></div>
    </>
  )
}

/** The requests that did worst on a metric. */
export function Worst({ release, metric, n = 3 }: { release: string; metric: string; n?: number }) {
  const q = new URLSearchParams({ release, metric, sort: 'worst', limit: String(n) })
  const { data } = useGet<{ cases: Case[] }>(`/v1/cases?${q}`)
  if (!data?.cases.length) return null
  return (
    <section className="worst" aria-label="Worst requests">
      <h3>Worst requests</h3>
      <ul>
        {data.cases.map((c) => (
          <li key={c.request}><Link to={casePath(c.request)}><CaseLine c={c} metric={metric} /></Link></li>
        ))}
      </ul>
      <Link className="more" to={`/cases?${new URLSearchParams({ release, metric, sort: 'worst' })}`}>All, worst first</Link>
    </section>
  )
}

export function CaseLine({ c, metric }: { c: Case; metric?: string }) {
  const s = c.scores?.find((x) => x.metric === metric && x.value != null)
  const bad = c.scores?.filter((x) => x.pass === false).length ?? 0
  return (
    <>
      <code>{shortID(c.request)}</code>
      <span className="quiet">{moment(c.start)}</span>
      <span className="marks">
        {s && <span>{metricName(s.metric)} <b>{percent(s.good === 'low' ? 1 - s.value! : s.value!, 0)}</b></span>}
        {c.failed && <span className="bad-text">failed</span>}
        {bad > 0 && <span className="quiet">{bad} of {c.scores!.length} checks missed</span>}
        {c.labels?.some((l) => l.value != null && l.value < 0.5) && <span className="bad-text">thumbs down</span>}
      </span>
    </>
  )
}
