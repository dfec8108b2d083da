import { useMemo, useState } from 'react'
import type { EventRow } from '../api'
import { eventName, family } from '../format'
import { useGet, useLive } from '../live'
import { Empty, Failure } from '../parts/empty'
import { Events, useCalm } from '../parts/events'

const families = ['prompt', 'retrieval', 'answer', 'score', 'feedback', 'action', 'alarm', 'gate']

export function StreamPage() {
  const live = useLive((l) => l.events)
  const first = useGet<{ events: EventRow[] }>('/v1/stream/recent?limit=200')
  const [only, setOnly] = useState<string>()
  const [held, hold] = useState<EventRow[]>()
  const all = useMemo(() => {
    const ids = new Set(live.map((e) => e.id))
    return [...live, ...(first.data?.events ?? []).filter((e) => !ids.has(e.id))].slice(0, 300)
  }, [live, first.data])
  const calm = useCalm(all)
  const shown = (held ?? calm.events).filter((e) => !only || family(e.type) === only)
  return (
    <>
      <div className="page-head">
        <h1>Stream</h1>
        <p className="quiet">Every event as it is appended, newest first. Content stays on the tape until a case is opened.</p>
      </div>
      <div className="bar" role="group" aria-label="Show">
        <button type="button" aria-pressed={!only} onClick={() => setOnly(undefined)}>all</button>
        {families.map((f) => <button key={f} type="button" aria-pressed={only === f} onClick={() => setOnly(f)} className={`fam-${f}`}><i aria-hidden="true" />{f}</button>)}
        <span className="grow" />
        <button type="button" aria-pressed={!!held} onClick={() => hold(held ? undefined : all)}>{held ? 'go on' : 'pause'}</button>
      </div>
      {first.error && <Failure error={first.error} retry={first.reload} />}
      {shown.length ? <Events events={shown} limit={200} fast={calm.fast} /> : <Empty title={only ? `No ${eventName(only)} events yet` : 'Nothing has arrived yet'}><p>Events show here within a second of being appended.</p></Empty>}
    </>
  )
}
