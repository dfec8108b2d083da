import { useEffect, useMemo } from 'react'
import type { EventRow, GateStatus, Overview, Release } from '../api'
import { count, metricName, percent } from '../format'
import { useGet, useLive, useNow, type Loaded } from '../live'
import { Link, releasePath } from '../router'
import { Checklist, missing } from '../parts/checklist'
import { Arm, ReleaseLink, State } from '../parts/chips'
import { DecisionCard } from '../parts/decision'
import { Empty, Failure, Waiting } from '../parts/empty'
import { Events, useCalm } from '../parts/events'
import { Comparison } from '../parts/gate'
import { Spark } from '../parts/spark'

export function NowPage() {
  const overview = useGet<Overview>('/v1/overview', 4000)
  const o = overview.data
  if (!o) return overview.error ? <Failure error={overview.error} retry={overview.reload} /> : <Waiting what="the log" />
  if (o.counts.total === 0 && o.counts.cases === 0) return <First o={o} />
  return <Running o={o} overview={overview} />
}

/** Nothing has come yet: what to do. */
function First({ o }: { o: Overview }) {
  const received = useLive((l) => l.received)
  return (
    <Empty title={received ? 'The first events are arriving' : 'Waiting for the first event'}>
      <p>Point any application that is instrumented with OpenTelemetry at this server. The list ticks itself off.</p>
      <pre><code>export OTEL_EXPORTER_OTLP_ENDPOINT={o.otlp}</code></pre>
      <p>No application at hand? <code>looptape demo</code> brings a small one.</p>
      <Checklist o={o} />
    </Empty>
  )
}

function Running({ o, overview }: { o: Overview; overview: Loaded<Overview> }) {
  const fresh = useLive((l) => l.decisions)
  const decisions = useMemo(() => {
    const known = new Map(o.decisions.map((d) => [d.id, d]))
    return [...fresh.filter((d) => !known.has(d.id)), ...o.decisions]
  }, [fresh, o.decisions])
  const movers = useLive((l) => l.points)
  const compared = o.releases.find((r) => r.entered || r.state) ?? o.releases.find((r) => movers[r.release]?.length)
  const focus = compared?.release ?? decisions[0]?.release ?? Object.keys(movers)[0]
  const gate = useGet<GateStatus>(focus ? `/v1/gates/${encodeURIComponent(focus)}` : null, 4000)
  const decision = decisions.find((d) => d.release === focus)
  const gaps = missing(o)
  const { reload } = gate
  const again = overview.reload
  const newest = fresh[0]?.id
  useEffect(() => {
    // A decision changes what everything else says: read it at once, and once
    // more when the answers kept for a moment are over.
    if (!newest) return
    reload()
    again()
    const t = setTimeout(() => {
      reload()
      again()
    }, 1500)
    return () => clearTimeout(t)
  }, [newest, reload, again])
  return (
    <div className="now">
      <Glance o={o} gate={gate.data} />
      <div className="columns">
        <div className="main-column">
          {decision && <DecisionCard d={decision} />}
          {focus && <Comparison release={focus} evidence={gate.data?.evidence} lead={decision?.top?.[0]?.metric} />}
          {gate.data?.evidence?.caveats?.map((c) => <p key={c} className="caveat">{c}</p>)}
          {gaps.length > 0 && (
            <section className="panel">
              <h2>{focus ? 'To get more out of it' : 'To compare releases'}</h2>
              <Checklist o={o} />
            </section>
          )}
        </div>
        <aside className="side-column">
          <Arriving />
          <Releases releases={o.releases} />
          {o.quarantined.length > 0 && <Quarantine o={o} />}
        </aside>
      </div>
    </div>
  )
}

function Glance({ o, gate }: { o: Overview; gate?: GateStatus }) {
  const received = useLive((l) => l.received)
  const now = useNow()
  const scored = o.seen.score?.n ?? 0
  return (
    <section className="glance" aria-label="At a glance">
      <div className="sentence">
        <h1>{headline(gate, o)}</h1>
        <p>{subline(gate, o)}</p>
      </div>
      <dl className="figures">
        <div className="figure"><dt>Requests</dt><dd>{count(o.counts.cases)}</dd></div>
        <div className="figure"><dt>Events</dt><dd data-received={received}>{count(o.counts.total)}</dd></div>
        <div className="figure"><dt>Scores</dt><dd>{count(scored)}</dd></div>
        <div className="figure"><dt>Last half hour</dt><dd><Spark minutes={o.counts.minutes} now={now} /></dd></div>
      </dl>
    </section>
  )
}

function headline(gate: GateStatus | undefined, o: Overview) {
  if (!gate) return o.releases.length > 0 ? 'Events are arriving. No release is being compared yet.' : 'Events are arriving.'
  const name = <Link to={releasePath(gate.release)}>{gate.release}</Link>
  switch (gate.state) {
    case 'rolled_back': return <>{name} was rolled back</>
    case 'rolling_back': return <>{name} is being rolled back</>
    case 'promoted': return <>{name} may take all traffic</>
    case 'hold': return <>{name} is on hold</>
    case 'quarantined': return <>{name} cannot be judged</>
    case 'warming': return <>{name} is about to be compared</>
    case 'expired': return <>{name} ended without a decision</>
  }
  return <>{name} is being compared</>
}

function subline(gate: GateStatus | undefined, o: Overview) {
  if (!gate) {
    const gaps = missing(o)
    return gaps.length ? `Missing for a comparison: ${gaps.map((g) => g.title.toLowerCase()).join(', ')}.` : 'A deployment has started. The comparison shows here when its first units have entered.'
  }
  const e = gate.evidence
  if (!e) return gate.message
  const where = `${count(e.n[1])} candidate and ${count(e.n[0])} baseline units against ${e.baseline}`
  const t = e.thresholds?.rollback
  if (gate.state === 'comparing' && t != null) return `${where}. Evidence of harm is at ${Math.max(0, Math.round((100 * e.overall.harm) / t))} % of what a rollback needs.`
  return `${where}.`
}

function Arriving() {
  const live = useLive((l) => l.events)
  const first = useGet<{ events: EventRow[] }>('/v1/stream/recent?limit=40')
  const events = useMemo(() => {
    const ids = new Set(live.map((e) => e.id))
    return [...live, ...(first.data?.events ?? []).filter((e) => !ids.has(e.id))]
  }, [live, first.data])
  const calm = useCalm(events)
  return (
    <section className="panel arriving">
      <h2>Arriving <Link to="/stream" className="more">all</Link></h2>
      {events.length ? <Events events={calm.events} limit={14} fast={calm.fast} /> : <p className="quiet">Nothing yet.</p>}
    </section>
  )
}

function Releases({ releases }: { releases: Release[] }) {
  if (!releases.length) return null
  return (
    <section className="panel">
      <h2>Releases <Link to="/releases" className="more">all</Link></h2>
      <ul className="release-list">
        {releases.slice(0, 5).map((r) => (
          <li key={r.release}>
            <div><ReleaseLink release={r.release} /> <State state={r.state} /></div>
            <div className="quiet">{r.arms.map((a) => <Arm key={a.arm} arm={a.arm} />)} {count(r.requests)} requests{lowest(r)}</div>
          </li>
        ))}
      </ul>
    </section>
  )
}

function lowest(r: Release): string {
  const all = r.arms.flatMap((a) => a.metrics).filter((m) => m.n >= 5).sort((a, b) => a.mean - b.mean)
  return all[0] ? ` · lowest: ${metricName(all[0].metric).toLowerCase()} ${percent(all[0].mean, 0)}` : ''
}

function Quarantine({ o }: { o: Overview }) {
  const n = o.counts.by_type['event.quarantined'] ?? o.quarantined.length
  return (
    <section className="panel">
      <h2>Quarantined</h2>
      <p className="quiet">{count(n)} kept as they came, with the reason. Nothing is dropped.</p>
      <ul className="plain">{o.quarantined.slice(0, 3).map((q) => <li key={q.id}><b>{q.kind}</b> {q.reason.replaceAll('_', ' ')}</li>)}</ul>
    </section>
  )
}
