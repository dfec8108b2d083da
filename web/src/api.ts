// What the API answers (internal/web, internal/loop/event), as far as the pages read it.

export interface Position { topic: string; partition: number; offset: number }

export interface EventRow {
  id: string; type: string; time: string; appended: string; position: Position
  request?: string; session?: string; app?: string; release?: string; arm?: string
  summary?: Record<string, string>
}

export interface Guard {
  metric: string; margin: number; mean: [number, number]; effect: number; cs: [number, number]
  log_e_harm: number; log_e_promote: number
}
export interface GuardRead extends Guard {
  segment: string; good: string; weight: number; critical?: boolean; n: [number, number]; missing: [number, number]; closed_log_e: number
}
export interface Point {
  id: string; release: string; baseline: string; deployment?: string; process: string; seq: number; time: string; state: string; stage: string
  propensity: number; entered: number; n: [number, number]; open: number; overall: { harm: number; promote: number }
  srm_log_e: number; thresholds: Record<string, number> | null; guards: Guard[]; watermark_lag_s: number
}
export interface Acknowledgement { actuator: string; outcome: string; observed?: string; share?: number; attempts: number; error?: string }
export interface Decision {
  id: string; release: string; baseline: string; deployment?: string; app?: string; seq: number; time: string; action: string; state: string
  rule: string; reason: string; log_e: number; threshold?: number; alpha?: number; alpha_total: number; effect: number; cs: [number, number]
  confidence: number; top?: GuardRead[]; n: [number, number]; exposure: number; entered: number; stage: string; propensity: number
  reversible_until?: string; evidence: string; evidence_seq: number; evidence_hash: string; policy_hash: string; policy_name?: string
  state_hash: string; guarantee: string; caveats?: string[]; dry_run?: boolean; acknowledgements?: Acknowledgement[]; carried_out?: string
}
export interface Evidence extends Omit<Point, 'guards' | 'id'> {
  guards: GuardRead[]; others?: GuardRead[]; caveats?: string[]; reversible_until?: string; policy_name?: string; policy_hash: string
  dropped?: Record<string, number>
}
export interface GateStatus {
  ok: boolean; phase: string; state: string; release: string; message: string
  evidence?: Evidence; decision?: Decision; evidence_id?: string; decision_id?: string
}
export interface MetricAverage { metric: string; n: number; mean: number }
export interface Release {
  release: string; app?: string; kind?: string; baseline?: string; manifest?: Record<string, string>
  deployment?: Deployment; arms: { arm: string; requests: number; failed: number; latency_ms?: number; metrics: MetricAverage[] }[]
  requests: number; failed: number; first?: string; last?: string; state?: string; entered?: number; decision?: Decision
}
export interface Deployment {
  id: string; type: string; time: string; release: string; baseline?: string; deployment?: string; stage?: string
  propensity?: number; actor?: string; reason?: string; outcome?: string; reversible_until?: string
}
export interface Seen { n: number; first: string; last: string }
export interface Overview {
  version: string; time: string; ready: boolean; caught_up: boolean; otlp: string
  counts: { total: number; by_type: Record<string, number>; minutes: { minute: string; n: number }[]; cases: number }
  seen: Record<string, Seen>; releases: Release[]; decisions: Decision[]
  quarantined: { id: string; time: string; kind: string; reason: string; detail?: string }[]
}
export interface CaseScore { id: string; evaluator: string; metric: string; mode: string; status: string; value?: number; good?: string; label?: string; pass?: boolean; reason?: string }
export interface Label { id: string; kind: string; value?: number; label?: string; author_role?: string; time: string }
export interface Case {
  request: string; revision: number; app?: string; environment?: string; session?: string; release?: string; deployment?: string; arm?: string
  unit?: string; propensity?: number; model?: string; start: string; end: string; closed?: boolean; failed?: boolean
  latency_ms?: number; cost_usd?: number; usage?: { input_tokens?: number; output_tokens?: number }; aliases?: string[]
  scores?: CaseScore[]; labels?: Label[]; position: Position; others?: string[]
  has: Record<string, number>
}
export interface Doc { id?: string; version?: string; rank?: number; score?: number; updated?: string; text?: string }
export interface Message { role: string; content?: string; name?: string; tool_calls?: { name: string; arguments?: string }[] }
export interface Entry {
  id: string; type: string; time: string; span?: string; position?: Position; facts?: Record<string, string>
  body?: Body; state: 'read' | 'gone' | 'unread' | 'failed'; note?: string
}
export interface Body {
  name?: string; template?: string; version?: string; messages?: Message[]; query?: string; source?: string; index_version?: string
  documents?: Doc[]; provider?: string; model_given?: string; model_asked?: string; latency_ms?: number; cost_usd?: number
  usage?: { input_tokens?: number; output_tokens?: number }; finish_reasons?: string[]; error?: { type: string; message?: string; status?: number }
  metric?: string; value?: number; good?: string; label?: string; pass?: boolean; reason?: string; explanation?: string; evaluator?: string
  kind?: string; comment?: string; correction?: string; author_role?: string; tool?: string; tier?: string; decision?: string
  args?: unknown; result?: unknown; component?: string; category?: string; rule?: string; action?: string; matched?: string; citations?: string[]
}
export interface OpenedCase {
  case: Case; timeline: Entry[]
  request?: { name?: string; question?: string; answer?: string; system?: string; contexts?: Doc[]; citations?: string[]; error?: { type: string; message?: string } }
}

export class ApiError extends Error {
  constructor(readonly code: string, message: string) { super(message) }
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  let res: Response
  try {
    res = await fetch(path, { signal, headers: { Accept: 'application/json' } })
  } catch (err) {
    if (signal?.aborted) throw err
    throw new ApiError('unreachable', 'The server does not answer. Is it still running?')
  }
  if (!res.ok) {
    const problem = (await res.json().catch(() => null)) as { code?: string; message?: string } | null
    throw new ApiError(problem?.code ?? 'http', problem?.message ?? `The server answered ${res.status}.`)
  }
  return (await res.json()) as T
}

export const path = (...parts: string[]) => parts.map((p, i) => (i === 0 ? p : encodeURIComponent(p))).join('/')
