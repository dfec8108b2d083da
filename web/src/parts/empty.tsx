import type { ReactNode } from 'react'
import type { ApiError } from '../api'

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <section className="empty">
      <h2>{title}</h2>
      {children}
    </section>
  )
}

export function Failure({ error, retry }: { error: ApiError; retry?: () => void }) {
  return (
    <div className="failure" role="alert">
      <p>{error.message}</p>
      {retry && <button type="button" onClick={retry}>Try again</button>}
    </div>
  )
}

export const Waiting = ({ what }: { what: string }) => <p className="waiting" role="status">Reading {what}…</p>
