import { useEffect, useRef, useState } from 'react'
import type { EventRow } from '../api'
import { thumb, clock, eventName, family, metricName, ms, percent, shortID } from '../format'
import { useLive } from '../live'
import { casePath, go, Link } from '../router'
import { Arm } from './chips'

const time = (v?: string) => v && Number(v) >= 0.0005 && ms(Number(v))

/** What an event says in a few words. */
export function words(e: EventRow): string {
  const s = e.summary ?? {}
  const list: (string | undefined | false)[] = []
  switch (family(e.type)) {
    case 'score':
      if (s.metric) {
        const v = Number(s.value)
        list.push(metricName(s.metric), s.value !== undefined && percent(s.good === 'low' ? 1 - v : v, 0), s.reason)
      }
      break
    case 'feedback': list.push(s.kind, s.label ?? (s.value !== undefined ? thumb({ kind: s.kind, value: Number(s.value) }) : ''), s.author_role?.replace('_', ' ')); break
    case 'retrieval': list.push(s.source, s.documents && `${s.documents} documents`, time(s.latency_ms), s.error); break
    case 'answer': list.push(s.model, time(s.latency_ms), s.tokens && `${s.tokens} tokens`, s.error); break
    case 'gate': list.push(e.release, s.action ?? s.state?.replace('_', ' '), s.units && `${s.units} units`, s.outcome?.replace('_', ' '), s.propensity && percent(Number(s.propensity), 0)); break
    case 'action': list.push(s.tool, s.tier, s.decision); break
    case 'alarm': list.push(s.component, s.category ?? s.reason?.replaceAll('_', ' '), s.enforced); break
    default: list.push(s.name, s.template && `${s.template}@${s.version ?? ''}`, s.messages && (s.messages === '1' ? '1 message' : `${s.messages} messages`))
  }
  return list.filter(Boolean).join(' · ')
}

/** Holds a list still for a second when it moves too fast to be read. */
export function useCalm(events: EventRow[]): { events: EventRow[]; fast: boolean } {
  const fast = useLive((l) => l.rate > 12)
  const newest = useRef(events)
  newest.current = events
  const [held, setHeld] = useState<EventRow[]>()
  useEffect(() => {
    if (!fast) {
      setHeld(undefined)
      return
    }
    setHeld(newest.current)
    const t = setInterval(() => setHeld(newest.current), 1000)
    return () => clearInterval(t)
  }, [fast])
  return { events: (fast && held) || events, fast }
}

export function Events({ events, limit, fast }: { events: EventRow[]; limit: number; fast?: boolean }) {
  return (
    <ol className={fast ? 'events fast' : 'events'} aria-label="Newest events first">
      {events.slice(0, limit).map((e) => (
        <li key={e.id + e.position.offset} className={`fam-${family(e.type)}${e.request ? ' opens' : ''}`}
          onClick={() => e.request && go(casePath(e.request))}>
          <time dateTime={e.appended} title={`happened ${e.time}`}>{clock(e.appended)}</time>
          <span className="what"><i aria-hidden="true" />{eventName(e.type)}</span>
          <span className="words">{words(e)}</span>
          <span className="who">
            <Arm arm={e.arm} />
            {e.request && <Link to={casePath(e.request)} className="id" onClickCapture={(ev) => ev.stopPropagation()}>{shortID(e.request)}</Link>}
          </span>
        </li>
      ))}
    </ol>
  )
}
