import type { Overview } from '../api'
import { count } from '../format'

interface Item { fact: string; title: string; why: string; how?: string; optional?: boolean }

const items: Item[] = [
  { fact: 'prompt', title: 'Prompts', why: 'Come with the first trace of a model call.' },
  { fact: 'response', title: 'Answers', why: 'Model calls with their latency, tokens and errors. Any OpenTelemetry GenAI instrumentation sends them.' },
  { fact: 'content', title: 'Content', why: 'Without the text there is no groundedness, citation or format score.', how: 'export OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true', optional: true },
  { fact: 'retrieval', title: 'Retrieved documents', why: 'Answers are checked against what was retrieved.', how: 'span.set_attribute("gen_ai.operation.name", "retrieval")' },
  { fact: 'release', title: 'Release id', why: 'Quality is told apart by release.', how: 'span.set_attribute("looptape.release", "my-app@2026-11-20")' },
  { fact: 'propensity', title: 'Logged propensity', why: 'A rollback with a stated false-alarm rate needs to know how arms were drawn.', how: 'span.set_attribute("looptape.arm", "candidate"); span.set_attribute("looptape.propensity", 0.5)' },
  { fact: 'deployment', title: 'A deployment', why: 'Says which release is compared with which.', how: 'looptape release start NEW --baseline OLD --share 0.5' },
  { fact: 'score', title: 'Scores', why: 'Come by themselves: the built-in evaluators run on every answer.' },
  { fact: 'feedback', title: 'Feedback', why: 'Thumbs, labels and outcomes join their request however late they come.', how: `curl -d '{"request":"<id>","kind":"thumbs","value":1}' -H 'Content-Type: application/json' ${location.origin}/v1/feedback`, optional: true },
]

export const missing = (o: Overview) => items.filter((i) => !i.optional && !o.seen[i.fact])

/** What has come, and for what has not, the line that brings it. */
export function Checklist({ o }: { o: Overview }) {
  return (
    <ul className="checklist">
      {items.map((i) => {
        const seen = o.seen[i.fact]
        return (
          <li key={i.fact} className={seen ? 'seen' : 'unseen'} data-fact={i.fact}>
            <span className="tick" role="img" aria-label={seen ? 'seen' : 'not seen yet'}>{seen ? '✓' : '○'}</span>
            <div>
              <b>{i.title}</b>{i.optional && <small> optional</small>} {seen && <span className="quiet">{count(seen.n)} seen</span>}
              {!seen && <><p>{i.why}</p>{i.how && <code>{i.how}</code>}</>}
            </div>
          </li>
        )
      })}
    </ul>
  )
}
