// A thin React skin over uPlot: size, theme, and lines across the plot.
import { useEffect, useRef } from 'react'
import uPlot from 'uplot'

export interface Rule { at: number; label: string; color: string; dash?: number[]; under?: boolean }

export interface ChartProps {
  data: uPlot.AlignedData
  series: { label: string; color: string; width?: number; dash?: number[]; points?: boolean; value?: (v: number) => string }[]
  bands?: { between: [number, number]; color: string }[]
  rules?: Rule[]
  range: [number, number]
  height: number
  y: (v: number) => string
  x: (v: number) => string
  label: string // for those who do not see it
  xLabel?: string
}

const css = (color: string) => (color.startsWith('--') ? getComputedStyle(document.documentElement).getPropertyValue(color).trim() : color)

export function Chart(props: ChartProps) {
  const box = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot | null>(null)
  const now = useRef(props)
  now.current = props
  const shape = JSON.stringify([props.series.map((s) => [s.label, s.color, s.width, s.dash]), props.bands, props.height])

  useEffect(() => {
    const el = box.current
    if (!el) return
    const make = () => {
      plot.current?.destroy()
      plot.current = new uPlot(options(el.clientWidth, now), now.current.data, el)
    }
    make()
    const resize = new ResizeObserver(() => plot.current?.setSize({ width: el.clientWidth, height: now.current.height }))
    resize.observe(el)
    const media = matchMedia('(prefers-color-scheme: dark)')
    media.addEventListener('change', make)
    window.addEventListener('themechange', make)
    return () => {
      resize.disconnect()
      media.removeEventListener('change', make)
      window.removeEventListener('themechange', make)
      plot.current?.destroy()
      plot.current = null
    }
  }, [shape])

  useEffect(() => {
    plot.current?.setData(props.data)
  }, [props.data, props.range[0], props.range[1], JSON.stringify(props.rules)])

  return <div className="chart" ref={box} role="img" aria-label={props.label} />
}

function options(width: number, now: { current: ChartProps }): uPlot.Options {
  const p = now.current
  const axis = { stroke: css('--muted'), grid: { stroke: css('--grid'), width: 1 }, ticks: { show: false }, font: '11px ui-sans-serif, system-ui, sans-serif' }
  return {
    width,
    height: p.height,
    padding: [10, 12, 0, 0],
    cursor: { points: { size: 6 }, drag: { x: false, y: false }, y: false },
    legend: { show: false },
    scales: { x: { time: false }, y: { range: () => now.current.range } },
    axes: [
      { ...axis, grid: { show: false }, values: (_, vs) => vs.map((v) => now.current.x(v)), size: 26, gap: 4 },
      { ...axis, values: (_, vs) => vs.map((v) => now.current.y(v)), size: 46, gap: 4, space: 34 },
    ],
    bands: p.bands?.map((b) => ({ series: b.between, fill: css(b.color) })),
    series: [
      { label: p.xLabel ?? '' },
      ...p.series.map((s) => ({
        label: s.label, stroke: css(s.color), width: s.width ?? 1.5, dash: s.dash, points: { show: false }, spanGaps: true,
      })),
    ],
    hooks: {
      draw: [(u) => drawRules(u, now.current.rules ?? [])],
      setCursor: [(u) => tip(u, now.current)],
    },
    plugins: [{ hooks: { init: (u) => { u.over.appendChild(Object.assign(document.createElement('div'), { className: 'tip', hidden: true })) } } }],
  }
}

function drawRules(u: uPlot, rules: Rule[]) {
  const { ctx, bbox } = u
  const ratio = devicePixelRatio
  ctx.save()
  ctx.beginPath()
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height)
  ctx.clip()
  ctx.font = `${11 * ratio}px ui-sans-serif, system-ui, sans-serif`
  for (const r of rules) {
    const y = Math.round(u.valToPos(r.at, 'y', true))
    ctx.strokeStyle = ctx.fillStyle = css(r.color)
    ctx.lineWidth = ratio
    ctx.setLineDash((r.dash ?? []).map((d) => d * ratio))
    ctx.beginPath()
    ctx.moveTo(bbox.left, y)
    ctx.lineTo(bbox.left + bbox.width, y)
    ctx.stroke()
    if (r.label) {
      ctx.textAlign = 'left'
      ctx.textBaseline = r.under ? 'top' : 'bottom'
      ctx.fillText(r.label, bbox.left + 6 * ratio, y + (r.under ? 4 : -3) * ratio)
    }
  }
  ctx.restore()
}

// tip shows the values under the cursor.
function tip(u: uPlot, p: ChartProps) {
  const el = u.over.querySelector<HTMLDivElement>('.tip')
  if (!el) return
  const i = u.cursor.idx
  if (i == null || u.cursor.left == null || u.cursor.left < 0) {
    el.hidden = true
    return
  }
  el.replaceChildren()
  const head = document.createElement('b')
  head.textContent = `${p.xLabel ? `${p.xLabel} ` : ''}${p.x(u.data[0]![i]!)}`
  el.append(head)
  p.series.forEach((s, k) => {
    const v = u.data[k + 1]?.[i]
    if (v == null || !s.label) return
    const line = document.createElement('span')
    line.textContent = `${s.label} ${(s.value ?? p.y)(v)}`
    el.append(line)
  })
  el.hidden = false
  const w = el.offsetWidth
  el.style.left = `${u.cursor.left + 14 + w > u.over.clientWidth ? Math.max(0, u.cursor.left - 14 - w) : u.cursor.left + 14}px`
}
