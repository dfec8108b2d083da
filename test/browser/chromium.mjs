// Starts Debian's Chromium, quiet on the network.
import { chromium } from 'playwright-core'

export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  })
}

/** A page that fails the test on errors of its own and on requests to elsewhere. */
export async function open(browser, base, options) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })
  const page = await context.newPage()
  const faults = []
  page.on('pageerror', (err) => faults.push(`error on the page: ${err.message}`))
  page.on('console', (m) => {
    // A request that the page asked for and was told "not there" is no fault.
    if (m.type() === 'error' && !/status of 404/.test(m.text())) faults.push(`console: ${m.text()}`)
  })
  page.on('request', (r) => {
    if (!r.url().startsWith(base) && !r.url().startsWith('data:')) faults.push(`request to elsewhere: ${r.url()}`)
  })
  return { page, faults, close: () => context.close() }
}
