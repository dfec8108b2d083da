// Takes pictures of every page: light, dark and narrow.
//
//   node look.mjs http://127.0.0.1:8090 ./pictures
import { mkdirSync } from 'node:fs'
import { launch, open } from './chromium.mjs'

const [base = 'http://127.0.0.1:8080', dir = 'pictures'] = process.argv.slice(2)
mkdirSync(dir, { recursive: true })
const browser = await launch()
try {
  const looks = { light: { colorScheme: 'light' }, dark: { colorScheme: 'dark' }, narrow: { colorScheme: 'light', viewport: { width: 390, height: 844 }, deviceScaleFactor: 2 } }
  const { cases = [] } = await (await fetch(`${base}/v1/cases?limit=40`)).json()
  const { gates = [] } = await (await fetch(`${base}/v1/gates`)).json()
  const best = cases.find((c) => c.labels?.length) ?? cases[0]
  const paths = { now: '/', cases: '/cases', stream: '/stream', releases: '/releases' }
  if (best) paths.case = `/cases/${best.request}`
  if (gates[0]) paths.release = `/releases/${encodeURIComponent(gates[0].release)}`
  for (const [look, options] of Object.entries(looks)) {
    const { page, faults, close } = await open(browser, base, options)
    for (const [name, path] of Object.entries(paths)) {
      await page.goto(base + path)
      await page.waitForTimeout(1200)
      await page.screenshot({ path: `${dir}/${name}-${look}.png`, fullPage: true })
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
      if (wide > 0) faults.push(`${name}: ${wide} px wider than the window`)
    }
    for (const f of faults) console.log(`${look}: ${f}`)
    await close()
  }
} finally {
  await browser.close()
}
