package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/looptape/looptape/internal/base/run"
)

// assign is called with the committed offsets of newly assigned partitions: it
// opens or restores their state, starts their workers and answers with the
// positions of the local store.
func (p *processor) assign(ctx context.Context, committed map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	p.c.metrics.rebalances.WithLabelValues(p.group).Inc()
	out, err := p.open(ctx, committed)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, context.Canceled) { // the next rebalance has begun, or the end
			return nil, err
		}
		p.fail(fmt.Errorf("assign: %w", err))
		return nil, err
	}
	return out, nil
}

func (p *processor) open(ctx context.Context, committed map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	byNumber := map[int32]map[string]int64{}
	for topic, ps := range committed {
		for part, o := range ps {
			if byNumber[part] == nil {
				byNumber[part] = map[string]int64{}
			}
			byNumber[part][topic] = o.EpochOffset().Offset
		}
	}
	start, end, err := p.c.Offsets(ctx, p.cfg.Inputs...)
	if err != nil {
		return nil, err
	}
	var (
		mu     sync.Mutex // guards opened
		opened = map[int32]*checkpoint{}
		slots  = make(chan struct{}, 4)
	)
	g := run.New(ctx)
	for part, topics := range byNumber {
		if len(topics) != len(p.cfg.Inputs) {
			return nil, fmt.Errorf("partition %d of %d inputs was assigned without that of the others: every member of group %s must read the same topics", part, len(topics), p.group)
		}
		g.Go("open partition", func(ctx context.Context) error {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			defer func() { <-slots }()
			cp, err := p.openPartition(ctx, part, topics, start, end)
			if err != nil {
				return fmt.Errorf("open state of partition %d: %w", part, err)
			}
			mu.Lock()
			opened[part] = cp
			mu.Unlock()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out := map[string]map[int32]kgo.Offset{}
	var fresh []*worker
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		return nil, context.Canceled
	}
	for part, cp := range opened {
		for topic, at := range cp.Next {
			if out[topic] == nil {
				out[topic] = map[int32]kgo.Offset{}
			}
			out[topic][part] = kgo.NewOffset().At(at).WithEpoch(-1)
			p.lag.processed(topic, part, at, time.Time{})
			p.lag.ended(topic, part, end[topic][part])
		}
		w := newWorker(p, part, cp)
		for topic := range cp.Next {
			w.target[topic] = end[topic][part]
		}
		p.workers[part] = w
		fresh = append(fresh, w)
		if !p.assigned {
			p.behind[part] = true
		}
	}
	p.assigned = true
	p.mu.Unlock()
	for _, w := range fresh {
		w.start()
	}
	p.c.metrics.partitions.WithLabelValues(p.group).Add(float64(len(fresh)))
	return out, nil
}

// release stops the workers of revoked partitions. With drain the batch under way
// may end within the time allowed and its positions are committed; without (the
// partitions are another's already) it is given up: its records come again to the
// new owner.
func (p *processor) release(ps map[string][]int32, drain bool) {
	p.c.metrics.rebalances.WithLabelValues(p.group).Inc()
	numbers := map[int32]bool{}
	for _, parts := range ps {
		for _, n := range parts {
			numbers[n] = true
		}
	}
	var ws []*worker
	p.mu.Lock()
	for n := range numbers {
		if w := p.workers[n]; w != nil {
			ws = append(ws, w)
			delete(p.workers, n)
		}
	}
	p.mu.Unlock()
	p.stop(ws, drain)
	if drain {
		ctx, cancel := context.WithTimeout(p.base, p.cfg.Drain)
		defer cancel()
		p.commitDirty(ctx)
	}
	p.mu.Lock()
	for n := range numbers {
		for _, topic := range p.cfg.Inputs {
			delete(p.dirty[topic], n)
		}
		delete(p.behind, n)
	}
	p.mu.Unlock()
	for n := range numbers {
		for _, topic := range p.cfg.Inputs {
			p.lag.dropped(topic, n)
		}
	}
}

// finish drains every worker and commits; no partition is opened after it.
func (p *processor) finish() {
	p.mu.Lock()
	p.closing = true
	numbers := map[string][]int32{}
	for n := range p.workers {
		numbers[""] = append(numbers[""], n)
	}
	p.mu.Unlock()
	p.release(numbers, true)
}

func (p *processor) stop(ws []*worker, drain bool) {
	if len(ws) == 0 {
		return
	}
	for _, w := range ws {
		w.stop(drain)
	}
	deadline := time.NewTimer(p.cfg.Drain)
	defer deadline.Stop()
	for i, w := range ws {
		select {
		case <-w.done:
			continue
		case <-deadline.C:
		}
		p.c.log.Warn("batches under way were given up: they took too long to drain", "group", p.group, "partitions", len(ws)-i)
		for _, w := range ws[i:] {
			w.cancel()
		}
		for _, w := range ws[i:] {
			<-w.done
		}
		break
	}
	for _, w := range ws {
		p.throttle(w) // its queue is empty
	}
	p.c.metrics.partitions.WithLabelValues(p.group).Sub(float64(len(ws)))
}
