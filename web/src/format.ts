// Numbers and names for people.

const metricNames: Record<string, string> = {
  grounded: 'Grounded in its sources',
  citation: 'Citations hold',
  retrieval_fresh: 'Sources are fresh',
  refusal: 'Answers, not refuses',
  pii_output: 'No personal data in answers',
  format: 'Format kept',
  over_slo: 'Within the latency budget',
  over_cost: 'Within the cost budget',
  missing_score: 'Scored in time',
  feedback: 'User feedback',
}

export const metricName = (m: string) => metricNames[m] ?? m.replaceAll('_', ' ').replace(/^./, (c) => c.toUpperCase())

export const count = (n: number) => n.toLocaleString('en-US')

export const percent = (v: number, digits = 1) => `${(100 * v).toFixed(digits)} %`

/** A difference of shares, in percentage points. */
export const points = (v: number, digits = 1) => {
  const s = (100 * Math.abs(v)).toFixed(digits)
  return `${Number(s) === 0 ? '' : v < 0 ? '−' : '+'}${s}`
}

export const fixed = (v: number, digits = 2) => v.toFixed(digits).replace('-', '−')

/** The time between two RFC 3339 stamps in milliseconds, finer than a Date can tell. */
export function between(from: string, to: string): number {
  const fraction = (t: string) => Number(`0.${/\.(\d+)/.exec(t)?.[1] ?? '0'}`) * 1000
  const whole = (t: string) => Math.floor(new Date(t).getTime() / 1000) * 1000
  return whole(to) - whole(from) + (fraction(to) - fraction(from))
}

export function ms(v: number): string {
  if (v < 0.95) return v >= 0.0005 ? `${Math.round(1000 * v)} µs` : '0'
  if (v < 1000) return `${Math.round(v)} ms`
  if (v < 60_000) return `${(v / 1000).toFixed(2)} s`
  return duration(v / 1000)
}

export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds))
  if (s < 60) return `${s} s`
  if (s < 3600) return s % 60 && s < 600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.round(s / 60)} min`
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`
  const days = Math.round(s / 86_400)
  return days === 1 ? '1 day' : `${days} days`
}

export const clock = (t: string) => new Date(t).toLocaleTimeString('en-GB', { hour12: false })

export const moment = (t: string) => {
  const d = new Date(t)
  const day = d.toDateString() === new Date().toDateString() ? '' : `${d.toLocaleDateString('en-GB', { day: 'numeric', month: 'short' })}, `
  return day + d.toLocaleTimeString('en-GB', { hour12: false })
}

export const ago = (t: string, now: number) => {
  const s = (now - new Date(t).getTime()) / 1000
  return s < 2 ? 'now' : `${duration(s)} ago`
}

export const shortID = (id: string) => (id.length > 14 ? `${id.slice(0, 8)}…${id.slice(-4)}` : id)

const eventNames: Record<string, string> = {
  'request.started': 'request',
  'prompt.rendered': 'prompt',
  'unit.assigned': 'assignment',
  'retrieval.completed': 'retrieval',
  'model.call.completed': 'model call',
  'response.delivered': 'answer',
  'request.closed': 'closed',
  'session.closed': 'session closed',
  'evaluation.result': 'score',
  'evaluation.skipped': 'score skipped',
  'evaluation.failed': 'score failed',
  'feedback.recorded': 'feedback',
  'outcome.recorded': 'outcome',
  'guardrail.result': 'guardrail',
  'safety.incident': 'safety incident',
  'action.executed': 'action',
  'gate.evidence': 'evidence',
  'gate.decision': 'decision',
  'gate.acknowledged': 'acknowledged',
  'deployment.started': 'roll-out started',
  'deployment.step': 'roll-out step',
  'deployment.finished': 'roll-out finished',
  'deployment.rolled_back': 'rolled back',
  'release.registered': 'release',
  'event.quarantined': 'quarantined',
}
/** Feedback in a word. */
export const thumb = (l: { kind?: string; label?: string; value?: number }) =>
  l.label || (l.value == null ? (l.kind ?? '') : l.kind === 'thumbs' ? (l.value < 0.5 ? 'down' : 'up') : percent(l.value, 0))

export const eventName = (type: string) => eventNames[type] ?? type

/** The family of an event type: it gives the dot its colour. */
export function family(type: string): string {
  if (type.startsWith('evaluation') || type === 'anchor.scored') return 'score'
  if (type.startsWith('feedback') || type.startsWith('outcome')) return 'feedback'
  if (type.startsWith('gate')) return 'gate'
  if (type.startsWith('deployment') || type.startsWith('release')) return 'gate'
  if (type.startsWith('retrieval')) return 'retrieval'
  if (type.startsWith('model') || type.startsWith('response') || type.endsWith('.closed')) return 'answer'
  if (type.startsWith('guardrail') || type.startsWith('safety') || type.startsWith('event.quarantined')) return 'alarm'
  if (type.startsWith('action')) return 'action'
  return 'prompt'
}

export const stateWords: Record<string, string> = {
  warming: 'warming up',
  comparing: 'comparing',
  hold: 'on hold',
  rolling_back: 'rolling back',
  rolled_back: 'rolled back',
  promoted: 'promoted',
  quarantined: 'quarantined',
  expired: 'ended',
}

/** good, bad, wait: how a state of a gate should look. */
export function tone(state?: string): 'bad' | 'good' | 'wait' | 'idle' {
  switch (state) {
    case 'rolling_back': case 'rolled_back': case 'quarantined': case 'rollback': case 'quarantine': return 'bad'
    case 'promoted': case 'advance': return 'good'
    case 'hold': return 'wait'
    default: return 'idle'
  }
}
