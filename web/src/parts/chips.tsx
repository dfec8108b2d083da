import type { ReactNode } from 'react'
import { stateWords, tone } from '../format'
import { Link, releasePath } from '../router'

export const Arm = ({ arm }: { arm?: string }) => (arm ? <span className={`arm ${arm}`}>{arm}</span> : null)

export const State = ({ state }: { state?: string }) => (state ? <span className={`state ${tone(state)}`}>{stateWords[state] ?? state}</span> : null)

export const ReleaseLink = ({ release }: { release?: string }) => (release ? <Link className="id" to={releasePath(release)}>{release}</Link> : null)

export function Figure({ label, children, note }: { label: string; children: ReactNode; note?: ReactNode }) {
  return (
    <div className="figure">
      <dt>{label}</dt>
      <dd>{children}{note && <small>{note}</small>}</dd>
    </div>
  )
}
