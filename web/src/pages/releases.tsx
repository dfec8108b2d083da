import type { Release } from '../api'
import { ago, count, metricName, ms, percent } from '../format'
import { useGet, useNow } from '../live'
import { Arm, ReleaseLink, State } from '../parts/chips'
import { Empty, Failure, Waiting } from '../parts/empty'

export function ReleasesPage() {
  const { data, error, reload } = useGet<{ releases: Release[] }>('/v1/releases', 5000)
  const now = useNow()
  if (!data) return error ? <Failure error={error} retry={reload} /> : <Waiting what="the releases" />
  if (!data.releases.length) {
    return (
      <Empty title="No release has been named yet">
        <p>Put the release on the spans of your application, and announce its roll-out:</p>
        <pre><code>{'span.set_attribute("looptape.release", "my-app@2026-11-20")\n\nlooptape release start my-app@2026-11-20 --baseline my-app@2026-11-13 --share 0.5'}</code></pre>
      </Empty>
    )
  }
  return (
    <>
      <div className="page-head"><h1>Releases</h1><p className="quiet">Means are turned so that 100 % is good. They mix all traffic of a release; a verdict comes only from its gate.</p></div>
      <div className="release-cards">
        {data.releases.map((r) => (
          <article key={r.release} className="panel">
            <h2><ReleaseLink release={r.release} /> <State state={r.state} /></h2>
            <p className="quiet">{[r.app, r.kind, r.baseline && `against ${r.baseline}`, r.last && `active ${ago(r.last, now)}`].filter(Boolean).join(' · ')}</p>
            {r.manifest && <p className="manifest">{Object.entries(r.manifest).map(([k, v]) => <span key={k}>{k} <code>{v}</code></span>)}</p>}
            {r.arms.map((a) => (
              <div key={a.arm} className="arm-row">
                <p><Arm arm={a.arm} /> {count(a.requests)} requests{a.failed > 0 && <>, <span className="bad-text">{count(a.failed)} failed</span></>}{a.latency_ms ? `, ${ms(a.latency_ms)} on average` : ''}</p>
                <ul className="means">
                  {a.metrics.map((m) => (
                    <li key={m.metric}><span>{metricName(m.metric)}</span><meter min={0} max={1} low={0.8} high={0.9} optimum={1} value={m.mean} aria-label={metricName(m.metric)} /><b>{percent(m.mean)}</b></li>
                  ))}
                </ul>
              </div>
            ))}
            {!r.arms.length && <p className="quiet">No request has come from it yet.</p>}
          </article>
        ))}
      </div>
    </>
  )
}
