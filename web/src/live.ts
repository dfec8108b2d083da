// One connection to /v1/live for the whole page, and the hooks that read it.
import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from 'react'
import { ApiError, get, type Decision, type EventRow, type Point } from './api'

interface Live {
  connected: boolean
  events: EventRow[] // newest first
  received: number // events since the page was opened
  rate: number // events per second, over the last seconds
  points: Record<string, Point[]> // by release, oldest first, since the page was opened
  decisions: Decision[] // newest first
  epoch: number // grows when everything has to be read anew
}

const keepEvents = 200
const keepPoints = 1200
const rateSeconds = 10

let state: Live = { connected: false, events: [], received: 0, rate: 0, points: {}, decisions: [], epoch: 0 }
let source: EventSource | null = null
let arrivals: { at: number; n: number }[] = []
const listeners = new Set<() => void>()

function set(change: Partial<Live>) {
  state = { ...state, ...change }
  for (const l of listeners) l()
}

function rate(now: number): number {
  arrivals = arrivals.filter((a) => now - a.at < rateSeconds * 1000)
  return arrivals.reduce((sum, a) => sum + a.n, 0) / rateSeconds
}

function connect() {
  source = new EventSource('/v1/live')
  let opened = 0
  source.addEventListener('hello', () => set({ connected: true, epoch: opened++ === 0 && state.epoch === 0 ? 0 : state.epoch + 1 }))
  source.addEventListener('resync', () => set({ epoch: state.epoch + 1 }))
  source.addEventListener('events', (m) => {
    const { events, count } = JSON.parse(m.data) as { events: EventRow[]; count: number }
    arrivals.push({ at: Date.now(), n: count })
    set({
      events: [...events].reverse().concat(state.events).slice(0, keepEvents),
      received: state.received + count,
      rate: rate(Date.now()),
    })
  })
  source.addEventListener('evidence', (m) => {
    const points = { ...state.points }
    for (const p of JSON.parse(m.data) as Point[]) points[p.release] = [...(points[p.release] ?? []), p].slice(-keepPoints)
    set({ points })
  })
  source.addEventListener('decision', (m) => {
    const d = JSON.parse(m.data) as Decision
    set({ decisions: [d, ...state.decisions.filter((x) => x.id !== d.id)].slice(0, 50) })
  })
  source.onerror = () => {
    set({ connected: false })
    if (source?.readyState === EventSource.CLOSED) setTimeout(connect, 3000)
  }
}

setInterval(() => {
  const r = rate(Date.now())
  if (r !== state.rate) set({ rate: r })
}, 2000)

function subscribe(fn: () => void) {
  if (!source) connect()
  listeners.add(fn)
  return () => listeners.delete(fn)
}

export function useLive<T>(pick: (l: Live) => T): T {
  return useSyncExternalStore(subscribe, () => pick(state))
}

export interface Loaded<T> { data?: T; error?: ApiError; loading: boolean; reload: () => void }

/**
 * Reads an address, again when it changes, when live changes were lost, and every
 * `every` milliseconds. What was read stays while it is read anew.
 */
export function useGet<T>(address: string | null, every = 0): Loaded<T> {
  const epoch = useLive((l) => l.epoch)
  const [state, setState] = useState<{ address: string | null; data?: T; error?: ApiError }>({ address })
  const [turn, setTurn] = useState(0)
  const reload = useCallback(() => setTurn((n) => n + 1), [])
  const current = useRef(address)
  current.current = address
  useEffect(() => {
    if (!address) return
    const stop = new AbortController()
    let timer = 0
    const read = () => {
      get<T>(address, stop.signal)
        .then((data) => setState({ address, data }))
        .catch((err: unknown) => {
          if (stop.signal.aborted) return
          const error = err instanceof ApiError ? err : new ApiError('page', String(err))
          setState((s) => ({ address, data: s.address === address ? s.data : undefined, error }))
        })
        .finally(() => {
          if (every > 0 && !stop.signal.aborted) timer = window.setTimeout(read, document.hidden ? 5 * every : every)
        })
    }
    read()
    return () => {
      stop.abort()
      clearTimeout(timer)
    }
  }, [address, every, epoch, turn])
  const fits = state.address === address
  return { data: fits ? state.data : undefined, error: fits ? state.error : undefined, loading: !fits || (!state.data && !state.error), reload }
}

/** The time, moving every second. */
export function useNow(): number {
  const [now, setNow] = useState(Date.now())
  useEffect(() => {
    const t = setInterval(() => setNow(Date.now()), 1000)
    return () => clearInterval(t)
  }, [])
  return now
}
