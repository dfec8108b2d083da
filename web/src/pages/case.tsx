import { useState } from 'react'
import type { Doc, Entry, Message, OpenedCase } from '../api'
import { between, duration, eventName, thumb, family, metricName, moment, ms, percent, points, shortID } from '../format'
import { useGet } from '../live'
import { Link } from '../router'
import { Arm, ReleaseLink } from '../parts/chips'
import { Empty, Failure, Waiting } from '../parts/empty'

export function CasePage({ id }: { id: string }) {
  const { data, error, reload } = useGet<OpenedCase>(`/v1/cases/${encodeURIComponent(id)}`, 10_000)
  if (!data) {
    if (!error) return <Waiting what="the case" />
    if (error.code === 'case_not_found' || error.code === 'case_pending') {
      return <Empty title={error.code === 'case_pending' ? 'Not joined yet' : 'No such case'}><p>{error.message}</p><p><button type="button" onClick={reload}>Look again</button> <Link to="/cases">All cases</Link></p></Empty>
    }
    return <Failure error={error} retry={reload} />
  }
  return <Opened data={data} />
}

function Opened({ data }: { data: OpenedCase }) {
  const { case: c, request: r, timeline } = data
  const failure = r?.error
  return (
    <article className="case">
      <div className="page-head">
        <p className="crumb"><Link to="/cases">Cases</Link> / <code>{c.request}</code></p>
        <h1 className="question">{r?.question || r?.name || 'Request without captured content'}</h1>
        <p className="quiet">
          {moment(c.start)} · {c.latency_ms ? ms(c.latency_ms) : duration(between(c.start, c.end) / 1000)}
          {c.release && <> · <Arm arm={c.arm} /> <ReleaseLink release={c.release} /></>}
          {c.session && <> · <Link to={`/cases?${new URLSearchParams({ session: c.session })}`}>session {shortID(c.session)}</Link></>}
          {c.usage && <> · {(c.usage.input_tokens ?? 0) + (c.usage.output_tokens ?? 0)} tokens</>}
          {c.cost_usd ? <> · ${c.cost_usd.toPrecision(2)}</> : null}
        </p>
      </div>
      {(c.failed || failure) && <p className="failure">The request ended in an error{failure && <>: <b>{failure.type}</b> {failure.message}</>}.</p>}
      {r?.answer ? <p className="answer">{r.answer}</p> : !c.failed && <p className="quiet">No answer was captured. Content capture is off by default: <code>OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true</code></p>}
      <Verdicts data={data} />
      <h2 className="section">Timeline</h2>
      <Timeline entries={timeline} start={c.start} />
      <details className="proof">
        <summary>Facts of this case</summary>
        <dl className="facts">
          <dt>Revision</dt><dd>{c.revision}, at <code>{c.position.topic}/{c.position.partition}/{c.position.offset}</code></dd>
          {c.aliases?.length ? <><dt>Also known as</dt><dd>{c.aliases.map((a) => <code key={a}>{a}</code>)}</dd></> : null}
          {c.unit && <><dt>Unit</dt><dd>{c.unit}{c.propensity != null && `, with a candidate's share of ${percent(c.propensity, 0)}`}</dd></>}
          {c.environment && <><dt>Environment</dt><dd>{c.environment}</dd></>}
          {c.others?.length ? <><dt>The id also stands for</dt><dd>{c.others.map((o) => <Link key={o} className="id" to={`/cases/${encodeURIComponent(o)}`}>{shortID(o)}</Link>)}</dd></> : null}
        </dl>
      </details>
    </article>
  )
}

function Verdicts({ data }: { data: OpenedCase }) {
  const { scores = [], labels = [] } = data.case
  if (!scores.length && !labels.length) return <p className="quiet">Not scored yet.</p>
  return (
    <ul className="verdicts" aria-label="Scores and feedback">
      {scores.map((s) => {
        const v = s.value == null ? undefined : s.good === 'low' ? 1 - s.value : s.value
        const bad = s.pass === false || (v != null && v < 0.5)
        return (
          <li key={s.id + s.evaluator} className={s.status !== 'scored' ? 'idle' : bad ? 'no' : 'ok'} title={`${s.evaluator}${s.mode !== 'live' ? `, ${s.mode}` : ''}`}>
            <span>{metricName(s.metric)}</span>
            <b>{s.status === 'scored' ? (v == null ? s.label : percent(v, 0)) : s.status}</b>
            {s.reason && <small>{s.reason.replaceAll('_', ' ')}</small>}
          </li>
        )
      })}
      {labels.map((l) => (
        <li key={l.id} className={l.value == null ? 'idle' : l.value < 0.5 ? 'no' : 'ok'}>
          <span>{l.kind} by {l.author_role?.replace('_', ' ') || 'someone'}</span><b>{thumb(l)}</b>
        </li>
      ))}
    </ul>
  )
}

function Timeline({ entries, start }: { entries: Entry[]; start: string }) {
  const took = (e: Entry) => e.body?.latency_ms ?? 0
  // Scores and feedback come after the request: the bars show the request itself.
  const inside = entries.filter((e) => !['score', 'feedback'].includes(family(e.type)))
  const end = Math.max(0.001, ...inside.map((e) => between(start, e.time)))
  if (!entries.length) return <p className="quiet">No event of this request is known.</p>
  return (
    <ol className="timeline">
      {grouped(entries).map((group) => {
        const e = group[0]!
        const at = Math.max(0, between(start, e.time))
        const lasts = Math.min(took(e), at)
        const later = !inside.includes(e)
        return (
          <li key={e.id + e.type} className={`fam-${family(e.type)}`} data-type={e.type}>
            <div className="gutter"><time dateTime={e.time}>{family(e.type) === 'score' ? '' : at < 0.0005 ? 'start' : `+${ms(at)}`}</time></div>
            <i className="dot" aria-hidden="true" />
            <div className="entry">
              <h3>
                {group.length > 1 ? `${group.length} scores` : eventName(e.type)}
                {took(e) > 0 && !later && <small>{ms(took(e))}</small>}
              </h3>
              {!later && <svg className="span" viewBox="0 0 100 3" preserveAspectRatio="none" aria-hidden="true"><rect className="track" width="100" height="3" /><rect className="fill" x={(100 * (at - lasts)) / end} width={Math.max(0.6, (100 * lasts) / end)} height="3" /></svg>}
              {family(e.type) === 'score' ? <ul className="scores">{group.map((s) => <ScoreRow key={s.id} e={s} />)}</ul> : <Content e={e} />}
            </div>
          </li>
        )
      })}
    </ol>
  )
}

/** The request itself, then its scores as one entry, then the feedback. */
function grouped(entries: Entry[]): Entry[][] {
  const out: Entry[][] = []
  const after = (e: Entry) => ['score', 'feedback'].indexOf(family(e.type))
  for (const e of [...entries].sort((a, b) => after(a) - after(b))) {
    const last = out.at(-1)
    if (last && family(e.type) === 'score' && family(last[0]!.type) === 'score') last.push(e)
    else out.push([e])
  }
  return out
}

function Content({ e }: { e: Entry }) {
  const [raw, setRaw] = useState(false)
  const b = e.body
  if (e.state !== 'read') return <p className="quiet">{e.note ?? 'Not read.'}</p>
  return (
    <>
      {b?.error && <p className="bad-text">{b.error.type}{b.error.message && `: ${b.error.message}`}</p>}
      {b?.query && <p className="quiet">for “{b.query}”</p>}
      {b?.documents?.map((d, i) => <Document key={`${d.id}${i}`} d={d} at={e.time} />)}
      {b?.messages?.map((m, i) => <Turn key={i} m={m} />)}
      {family(e.type) === 'feedback' && b && (
        <div className="said"><b>{thumb(b)}</b> <span className="quiet">{[b.kind, b.author_role?.replace('_', ' ')].filter(Boolean).join(', ')}</span>{b.comment && <p>{b.comment}</p>}{b.correction && <p>Better: {b.correction}</p>}</div>
      )}
      {e.type === 'unit.assigned' && e.facts && <p><Arm arm={e.facts.arm} /> {e.facts.propensity && `drawn with a candidate's share of ${percent(Number(e.facts.propensity), 0)}`} {e.facts.unit && <span className="quiet">for {e.facts.unit_kind || 'unit'} {shortID(e.facts.unit)}{e.facts.stage && `, stage ${e.facts.stage}`}</span>}</p>}
      {b?.tool && <p><code>{b.tool}</code> {b.tier} {b.decision}</p>}
      {b?.component && <p>{[b.component, b.category, b.rule, b.action].filter(Boolean).join(' · ')}</p>}
      <p className="tail quiet">
        {[b?.model_given ?? b?.model_asked, b?.usage && `${b.usage.input_tokens ?? 0} + ${b.usage.output_tokens ?? 0} tokens`, b?.finish_reasons?.join(', '), b?.template && `template ${b.template}@${b.version}`, b?.index_version && `index ${b.index_version}`, b?.citations?.length && `cites ${b.citations.join(', ')}`].filter(Boolean).join(' · ')}
        {e.position && <code>{e.position.topic}/{e.position.partition}/{e.position.offset}</code>}
        <button type="button" className="link" aria-expanded={raw} onClick={() => setRaw(!raw)}>{raw ? 'hide record' : 'record'}</button>
      </p>
      {raw && <pre className="raw" tabIndex={0}>{JSON.stringify({ id: e.id, facts: e.facts, body: b }, null, 2)}</pre>}
    </>
  )
}

function ScoreRow({ e }: { e: Entry }) {
  const [raw, setRaw] = useState(false)
  const b = e.body
  const v = b?.value == null ? undefined : b.good === 'low' ? 1 - b.value : b.value
  return (
    <li data-metric={b?.metric}>
      <div className="row">
        <span>{b?.metric ? metricName(b.metric) : eventName(e.type)}</span>
        {v != null ? <meter min={0} max={1} low={0.5} high={0.8} optimum={1} value={v} aria-label="score" /> : <span />}
        <b>{v != null ? percent(v, 0) : e.state === 'read' ? eventName(e.type).replace('score', '').trim() : '–'}</b>
        <span className="quiet">{e.note ?? [b?.label, b?.reason?.replaceAll('_', ' '), b?.evaluator, b?.latency_ms && ms(b.latency_ms)].filter(Boolean).join(' · ')}</span>
        <button type="button" className="link" aria-expanded={raw} onClick={() => setRaw(!raw)}>{raw ? 'hide' : 'record'}</button>
      </div>
      {b?.explanation && <p className="explanation quiet">{b.explanation}</p>}
      {raw && <pre className="raw" tabIndex={0}>{JSON.stringify({ id: e.id, position: e.position, facts: e.facts, body: b }, null, 2)}</pre>}
    </li>
  )
}

function Document({ d, at }: { d: Doc; at: string }) {
  const age = d.updated ? (new Date(at).getTime() - new Date(d.updated).getTime()) / 1000 : undefined
  return (
    <details className="document">
      <summary>
        <b>{d.rank ? `${d.rank}. ` : ''}{d.id ?? 'document'}</b>
        <span className="quiet">{[d.version && `version ${d.version}`, d.score != null && `score ${points(d.score / 100, 2).replace('+', '')}`, age != null && `${duration(age)} old`].filter(Boolean).join(' · ')}</span>
      </summary>
      <p>{d.text ?? 'Its text was not captured.'}</p>
    </details>
  )
}

function Turn({ m }: { m: Message }) {
  const long = (m.content?.length ?? 0) > 700
  const [whole, setWhole] = useState(!long)
  return (
    <div className={`turn ${m.role}`}>
      <b>{m.role}{m.name && ` (${m.name})`}</b>
      <p>{whole ? m.content : `${m.content?.slice(0, 600)}…`}</p>
      {m.tool_calls?.map((t, i) => <code key={i}>{t.name}({t.arguments})</code>)}
      {long && <button type="button" className="link" onClick={() => setWhole(!whole)}>{whole ? 'less' : 'all of it'}</button>}
    </div>
  )
}
