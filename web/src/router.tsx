import { useSyncExternalStore, type AnchorHTMLAttributes, type MouseEvent } from 'react'

const listeners = new Set<() => void>()
const tell = () => listeners.forEach((l) => l())
window.addEventListener('popstate', tell)

export function go(to: string, replace = false) {
  if (replace) history.replaceState(null, '', to)
  else history.pushState(null, '', to)
  if (!replace) window.scrollTo(0, 0)
  tell()
}

const subscribe = (fn: () => void) => {
  listeners.add(fn)
  return () => listeners.delete(fn)
}

export const usePath = () => useSyncExternalStore(subscribe, () => location.pathname)
export const useQuery = () => new URLSearchParams(useSyncExternalStore(subscribe, () => location.search))

/** A link within the pages. */
export function Link({ to, ...rest }: { to: string } & AnchorHTMLAttributes<HTMLAnchorElement>) {
  const onClick = (e: MouseEvent) => {
    if (e.defaultPrevented || e.button !== 0 || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey) return
    e.preventDefault()
    go(to)
  }
  return <a href={to} onClick={onClick} {...rest} />
}

export const casePath = (id: string) => `/cases/${encodeURIComponent(id)}`
export const releasePath = (id: string) => `/releases/${encodeURIComponent(id)}`
