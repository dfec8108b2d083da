import { useState, type FormEvent } from 'react'
import type { Case, Release } from '../api'
import { thumb, metricName, moment, ms, percent, shortID } from '../format'
import { useGet } from '../live'
import { casePath, go, Link, useQuery } from '../router'
import { Arm } from '../parts/chips'
import { Empty, Failure, Waiting } from '../parts/empty'

const filters = ['release', 'arm', 'session', 'metric', 'max', 'failed', 'feedback_max', 'sort', 'prefix', 'since']

export function CasesPage() {
  const q = useQuery()
  const [id, setID] = useState('')
  const [cursors, setCursors] = useState<string[]>([])
  const ask = new URLSearchParams()
  for (const f of filters) if (q.get(f)) ask.set(f, q.get(f)!)
  const key = ask.toString()
  const cursor = cursors.at(-1)?.startsWith(`${key}\n`) ? cursors.at(-1)!.split('\n')[1]! : ''
  ask.set('limit', '50')
  if (cursor) ask.set('cursor', cursor)
  const { data, error, reload } = useGet<{ cases: Case[]; next?: string }>(`/v1/cases?${ask}`, cursor ? 0 : 5000)
  const releases = useGet<{ releases: Release[] }>('/v1/releases')
  const metrics = [...new Set((releases.data?.releases ?? []).flatMap((r) => r.arms.flatMap((a) => a.metrics.map((m) => m.metric))))].filter((m) => m !== 'feedback').sort()
  const put = (name: string, value: string, also: Record<string, string> = {}) => {
    const next = new URLSearchParams(key)
    for (const [k, v] of Object.entries({ [name]: value, ...also })) v ? next.set(k, v) : next.delete(k)
    setCursors([])
    go(`/cases${next.size ? `?${next}` : ''}`, true)
  }
  const open = (e: FormEvent) => {
    e.preventDefault()
    if (id.trim()) go(casePath(id.trim()))
  }
  const metric = q.get('metric') ?? ''
  return (
    <>
      <div className="page-head"><h1>Cases</h1><p className="quiet">One for each request: everything known of it, however late it came.</p></div>
      <form className="bar" onSubmit={open}>
        <input type="search" value={id} onChange={(e) => setID(e.target.value)} placeholder="Open by request, trace, response or your own id" aria-label="Open a case by id" spellCheck={false} />
        <button type="submit">Open</button>
      </form>
      <div className="bar filters">
        <Choice label="Release" value={q.get('release') ?? ''} onChange={(v) => put('release', v)} options={(releases.data?.releases ?? []).map((r) => [r.release, r.release])} all="all releases" />
        <Choice label="Order" value={q.get('sort') === 'worst' ? metric : ''} onChange={(v) => put('metric', v, { sort: v && 'worst' })} options={metrics.map((m) => [m, `worst: ${metricName(m)}`])} all="newest first" />
        <Choice label="Outcome" value={q.get('failed') === 'true' ? 'failed' : q.get('feedback_max') ? 'down' : ''} onChange={(v) => put('failed', v === 'failed' ? 'true' : '', { feedback_max: v === 'down' ? '0.4' : '' })} options={[['failed', 'failed'], ['down', 'bad feedback']]} all="any outcome" />
        {q.get('session') && <button type="button" onClick={() => put('session', '')}>session {shortID(q.get('session')!)} ✕</button>}
      </div>
      {error && <Failure error={error} retry={reload} />}
      {!data && !error && <Waiting what="the cases" />}
      {data && !data.cases.length && <Empty title={key ? 'No case fits' : 'No case yet'}><p>{key ? <Link to="/cases">Show all</Link> : 'A case appears as soon as the first event of a request has been joined.'}</p></Empty>}
      {data && data.cases.length > 0 && (
        <table className="cases">
          <thead><tr><th scope="col">Request</th><th scope="col">When</th><th scope="col">Release</th><th scope="col" className="num">Took</th><th scope="col">Checks</th></tr></thead>
          <tbody>
            {data.cases.map((c) => (
              <tr key={c.request} onClick={() => go(casePath(c.request))}>
                <th scope="row"><Link to={casePath(c.request)} className="id">{shortID(c.request)}</Link></th>
                <td className="quiet">{moment(c.start)}</td>
                <td><Arm arm={c.arm} /> <span className="release-cell">{c.release}</span></td>
                <td className="num">{c.latency_ms ? ms(c.latency_ms) : '–'}</td>
                <td><Checks c={c} metric={metric} /></td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <div className="bar">
        {cursor && <button type="button" onClick={() => setCursors(cursors.slice(0, -1))}>Back</button>}
        {data?.next && <button type="button" onClick={() => setCursors([...cursors, `${key}\n${data.next}`])}>More</button>}
      </div>
    </>
  )
}

function Checks({ c, metric }: { c: Case; metric: string }) {
  const scored = (c.scores ?? []).filter((s) => s.status === 'scored' && s.value != null)
  const s = scored.find((x) => x.metric === metric)
  return (
    <span className="checks">
      {s && <b>{percent(s.good === 'low' ? 1 - s.value! : s.value!, 0)}</b>}
      <span className="dots" role="img" aria-label={`${scored.filter((x) => good(x) >= 0.5).length} of ${scored.length} checks passed`}>
        {scored.map((x) => <i key={x.id} className={good(x) >= 0.5 ? 'ok' : 'no'} title={`${metricName(x.metric)} ${percent(good(x), 0)}`} />)}
      </span>
      {c.failed && <span className="bad-text">failed</span>}
      {c.labels?.map((l) => <span key={l.id} className={l.value != null && l.value < 0.5 ? 'bad-text' : 'good-text'}>{thumb(l)}</span>)}
    </span>
  )
}

const good = (s: { value?: number; good?: string }) => (s.good === 'low' ? 1 - s.value! : s.value!)

function Choice({ label, value, onChange, options, all }: { label: string; value: string; onChange: (v: string) => void; options: (readonly [string, string])[]; all: string }) {
  const known = options.some(([v]) => v === value) || !value
  return (
    <label className="choice">
      <span className="hidden">{label}</span>
      <select value={value} onChange={(e) => onChange(e.target.value)}>
        <option value="">{all}</option>
        {!known && <option value={value}>{value}</option>}
        {options.map(([v, text]) => <option key={v} value={v}>{text}</option>)}
      </select>
    </label>
  )
}
