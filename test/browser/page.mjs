// The pages of a running server in a real browser: it waits for the decision,
// looks at its card, opens a case from it and keeps pictures.
//
//   LOOPTAPE_URL=http://127.0.0.1:8080 ARTIFACTS=pictures node page.mjs
//
// LOOPTAPE_WAIT is how long the decision may take, in seconds (default 120).
import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { launch, open } from './chromium.mjs'

const base = (process.env.LOOPTAPE_URL ?? 'http://127.0.0.1:8080').replace(/\/$/, '')
const dir = process.env.ARTIFACTS ?? 'pictures'
const wait = 1000 * Number(process.env.LOOPTAPE_WAIT ?? 120)
mkdirSync(dir, { recursive: true })

/** Asks until the server answers. */
async function up(deadline = Date.now() + 20_000) {
  for (;;) {
    try {
      if ((await fetch(`${base}/healthz`)).ok) return
    } catch (err) {
      if (Date.now() > deadline) throw err
    }
    await new Promise((done) => setTimeout(done, 200))
  }
}

await up()
const browser = await launch()
let current
try {
  const { page, faults, close } = await open(browser, base)
  current = page
  const picture = async (name) => {
    await page.evaluate(() => scrollTo(0, 0))
    await page.waitForTimeout(150)
    return page.screenshot({ path: `${dir}/${name}.png`, fullPage: true })
  }
  const step = (text) => console.log(`- ${text}`)

  await page.goto(base)
  await page.getByRole('status').filter({ hasText: 'live' }).waitFor({ timeout: 20_000 })
  step('the page is connected')

  const events = page.locator('.arriving .events > li')
  await events.first().waitFor({ timeout: wait })
  assert.ok((await page.locator('.glance h1').innerText()).length > 0, 'a headline')
  step('events arrive')
  await picture('arriving')

  const card = page.locator('article.decision[data-decision="rollback"]').first()
  await card.waitFor({ timeout: wait })
  step('the decision is on the page, without a reload')
  const said = await card.innerText()
  for (const part of ['Rolled back', 'log E', 'threshold', 'False alarm rate', 'Units compared', 'Effect']) {
    assert.ok(said.includes(part), `the card says ${part}:\n${said}`)
  }
  const api = await (await fetch(`${base}/v1/decisions`)).json()
  const decision = api.decisions.find((d) => d.action === 'rollback')
  assert.ok(said.includes(decision.release), 'the card names the release')
  assert.ok(said.includes(decision.log_e.toFixed(2)), `the card shows log E ${decision.log_e}`)
  assert.ok(decision.log_e >= decision.threshold, 'the evidence has crossed its threshold')
  await card.getByText('What this promises').click()
  assert.ok((await card.innerText()).includes(decision.guarantee.slice(0, 60)), 'the guarantee is on the card')
  await card.getByText('What this promises').click()

  await page.locator('.comparison .chart canvas').first().waitFor()
  assert.equal(await page.locator('.comparison .chart canvas').count(), 3, 'three plots')
  const row = page.locator('.comparison .metrics tbody button').nth(1)
  await row.focus()
  await page.keyboard.press('Enter')
  assert.equal(await row.getAttribute('aria-pressed'), 'true', 'a metric is chosen with the keyboard')
  step('the comparison has its plots')
  await page.waitForTimeout(600)
  await picture('decision')

  const worst = card.locator('.worst li a').first()
  await worst.waitFor({ timeout: 20_000 })
  const href = await worst.getAttribute('href')
  await worst.click()
  await page.waitForURL(`**${href}`)
  const timeline = page.locator('.timeline > li')
  await timeline.first().waitFor()
  const types = await timeline.evaluateAll((items) => items.map((i) => i.dataset.type))
  for (const type of ['retrieval.completed', 'evaluation.result']) assert.ok(types.includes(type), `the timeline has ${type}: ${types}`)
  assert.ok(types.some((t) => t === 'prompt.rendered' || t === 'request.started'), `the timeline has a prompt: ${types}`)
  const question = await page.locator('h1.question').innerText()
  const opened = await (await fetch(`${base}/v1${href}`)).json()
  assert.equal(question, opened.request.question || opened.request.name, 'the question is the headline')
  if (opened.request.answer) assert.equal((await page.locator('.answer').innerText()).trim(), opened.request.answer.trim(), 'the answer is on the page')
  assert.ok((await page.locator('.verdicts li').count()) > 0, 'the case shows its scores')
  step(`a case is open: ${types.length} entries`)
  await picture('case')

  // The worst cases of a stale index may have retrieved nothing: take one that has.
  const all = await (await fetch(`${base}/v1/cases?limit=100`)).json()
  let full
  for (const c of all.cases) {
    const o = await (await fetch(`${base}/v1/cases/${c.request}`)).json()
    if (o.timeline.some((t) => t.body?.documents?.length) && c.labels?.length) {
      full = c
      break
    }
  }
  assert.ok(full, 'one of the newest cases has retrieved documents and feedback')
  await page.goto(`${base}/cases/${full.request}`)
  const document_ = page.locator('.document').first()
  await document_.locator('summary').click()
  assert.ok((await document_.locator('p').innerText()).length > 0, 'a retrieved document opens')
  assert.ok((await timeline.evaluateAll((items) => items.map((i) => i.dataset.type))).includes('feedback.recorded'), 'the timeline has the feedback')
  step('a retrieved document opens, the feedback is there')
  await picture('case-with-documents')

  await page.goBack()
  await page.goBack()
  await card.waitFor()
  step('back works')

  for (const [name, options] of Object.entries({
    dark: { colorScheme: 'dark' },
    narrow: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2 },
  })) {
    const other = await open(browser, base, options)
    current = other.page
    for (const [what, path] of [['decision', '/'], ['case', href], ['cases', '/cases'], ['releases', '/releases'], ['stream', '/stream']]) {
      await other.page.goto(base + path)
      await other.page.locator('main > *').first().waitFor()
      await other.page.waitForTimeout(900)
      const over = await other.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
      assert.ok(over <= 0, `${path} is ${over} px wider than a ${name} window`)
      await other.page.screenshot({ path: `${dir}/${what}-${name}.png`, fullPage: what !== 'stream' && what !== 'cases' })
    }
    faults.push(...other.faults)
    await other.close()
  }
  step('dark and narrow')
  assert.deepEqual(faults, [], 'nothing failed in the browser and nothing was asked of other hosts')
  await close()
  console.log('ok')
} catch (err) {
  await current?.screenshot({ path: `${dir}/failed.png`, fullPage: true }).catch(() => {})
  throw err
} finally {
  await browser.close()
}
