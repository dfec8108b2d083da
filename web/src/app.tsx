import { useEffect, useState } from 'react'
import { useLive } from './live'
import { Link, usePath } from './router'
import { CasePage } from './pages/case'
import { CasesPage } from './pages/cases'
import { NowPage } from './pages/now'
import { ReleasePage } from './pages/release'
import { ReleasesPage } from './pages/releases'
import { StreamPage } from './pages/stream'
import { Empty } from './parts/empty'
import { count } from './format'

export function App() {
  const path = usePath()
  const [, section = '', id = ''] = path.split('/')
  useEffect(() => {
    document.title = section ? `${id ? decodeURIComponent(id) : section} · Looptape` : 'Looptape'
  }, [section, id])
  return (
    <>
      <a className="skip" href="#main">Skip to content</a>
      <Header section={section} />
      <main id="main" tabIndex={-1}>
        <Page section={section} id={id ? decodeURIComponent(id) : ''} />
      </main>
    </>
  )
}

function Page({ section, id }: { section: string; id: string }) {
  switch (section) {
    case '': return <NowPage />
    case 'cases': return id ? <CasePage key={id} id={id} /> : <CasesPage />
    case 'releases': return id ? <ReleasePage key={id} release={id} /> : <ReleasesPage />
    case 'stream': return <StreamPage />
  }
  return <Empty title="There is no such page"><p>Try <Link to="/">what happens now</Link>.</p></Empty>
}

const sections = [['', 'Now'], ['cases', 'Cases'], ['releases', 'Releases'], ['stream', 'Stream']] as const

function Header({ section }: { section: string }) {
  const connected = useLive((l) => l.connected)
  const rate = useLive((l) => l.rate)
  return (
    <header className="top">
      <Link to="/" className="brand" aria-label="Looptape, front page">
        <svg viewBox="0 0 32 32" aria-hidden="true"><circle cx="10" cy="14" r="6" /><circle cx="22" cy="14" r="6" /><path d="M4.500 17.500 9 25h14l4.500-7.500" /></svg>
        Looptape
      </Link>
      <nav aria-label="Sections">
        {sections.map(([name, label]) => (
          <Link key={name} to={`/${name}`} aria-current={section === name ? 'page' : undefined}>{label}</Link>
        ))}
      </nav>
      <span className={connected ? 'pulse on' : 'pulse'} role="status">
        <i aria-hidden="true" />
        {connected ? <><span className="wide">live · </span>{count(Math.round(rate * 10) / 10)}/s</> : 'connecting'}
      </span>
      <Theme />
    </header>
  )
}

const themes = ['auto', 'light', 'dark'] as const

function Theme() {
  const [theme, setTheme] = useState(() => themes.find((t) => t === localStorage.getItem('theme')) ?? 'auto')
  useEffect(() => {
    if (theme === 'auto') delete document.documentElement.dataset.theme
    else document.documentElement.dataset.theme = theme
    localStorage.setItem('theme', theme)
    window.dispatchEvent(new Event('themechange'))
  }, [theme])
  const next = themes[(themes.indexOf(theme) + 1) % themes.length]!
  return (
    <button type="button" className="theme" onClick={() => setTheme(next)} title={`Theme: ${theme}. Switch to ${next}.`} aria-label={`Theme: ${theme}. Switch to ${next}.`}>
      <svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6.200" /><path d={theme === 'auto' ? 'M8 1.800a6.200 6.200 0 0 1 0 12.400z' : theme === 'dark' ? 'M8 1.800a6.200 6.200 0 1 1 0 12.400 6.200 6.200 0 0 1 0-12.400z' : ''} className="fill" /></svg>
    </button>
  )
}
