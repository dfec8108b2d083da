import type { Deployment, Decision, GateStatus, Release } from '../api'
import { count, eventName, moment, percent } from '../format'
import { useGet } from '../live'
import { Arm, ReleaseLink, State } from '../parts/chips'
import { DecisionCard, Worst } from '../parts/decision'
import { Empty, Failure, Waiting } from '../parts/empty'
import { Comparison } from '../parts/gate'
import { Link } from '../router'

export function ReleasePage({ release }: { release: string }) {
  const name = encodeURIComponent(release)
  const about = useGet<{ release: Release; deployments: Deployment[] }>(`/v1/releases/${name}`, 8000)
  const gate = useGet<GateStatus>(`/v1/gates/${name}`, 3000)
  const decisions = useGet<{ decisions: Decision[] }>(`/v1/decisions?release=${name}&limit=10`, 4000)
  const r = about.data?.release
  if (!r && !gate.data) {
    if (about.error?.code === 'release_not_found') return <Empty title="No such release"><p>{about.error.message} See <Link to="/releases">all releases</Link>.</p></Empty>
    return about.error ? <Failure error={about.error} retry={about.reload} /> : <Waiting what="the release" />
  }
  const list = decisions.data?.decisions ?? []
  return (
    <>
      <div className="page-head">
        <h1>{release} <State state={gate.data?.state ?? r?.state} /></h1>
        <p className="quiet">
          {r && <>{r.arms.map((a) => <Arm key={a.arm} arm={a.arm} />)} {count(r.requests)} requests{r.failed > 0 && `, ${count(r.failed)} failed`} · </>}
          {gate.data?.evidence ? <>compared with <ReleaseLink release={gate.data.evidence.baseline} /></> : r?.baseline ? <>baseline <ReleaseLink release={r.baseline} /></> : 'it is no candidate'}
          {' · '}<Link to={`/cases?${new URLSearchParams({ release })}`}>its requests</Link>
        </p>
        {gate.data && !list.length && <p>{gate.data.message}</p>}
      </div>
      {list[0] && <DecisionCard d={list[0]} />}
      {gate.data && <Comparison release={release} evidence={gate.data.evidence} lead={list[0]?.top?.[0]?.metric} />}
      {gate.error?.code === 'gate_not_found' && (
        <section className="panel">
          <h2>Quality so far</h2>
          <ul className="means">{r?.arms.flatMap((a) => a.metrics).map((m) => <li key={m.metric}><span>{m.metric}</span><meter min={0} max={1} value={m.mean} aria-label={m.metric} /><b>{percent(m.mean)}</b></li>)}</ul>
          {r?.arms[0]?.metrics[0] && <Worst release={release} metric={r.arms.flatMap((a) => a.metrics).sort((a, b) => a.mean - b.mean)[0]!.metric} n={5} />}
        </section>
      )}
      <div className="two">
        {about.data && about.data.deployments.length > 0 && (
          <section className="panel">
            <h2>Roll-out</h2>
            <ol className="history">
              {about.data.deployments.map((d) => (
                <li key={d.id}><time dateTime={d.time}>{moment(d.time)}</time> <b>{eventName(d.type)}</b> {[d.stage, d.propensity && percent(d.propensity, 0), d.actor, d.outcome?.replace('_', ' '), d.reason].filter(Boolean).join(' · ')}</li>
              ))}
            </ol>
          </section>
        )}
        {list.length > 1 && (
          <section className="panel">
            <h2>Earlier decisions</h2>
            <ol className="history">{list.slice(1).map((d) => <li key={d.id}><time dateTime={d.time}>{moment(d.time)}</time> <b>{d.action}</b> {d.reason}</li>)}</ol>
          </section>
        )}
      </div>
    </>
  )
}
