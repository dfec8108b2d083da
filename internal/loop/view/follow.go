package view

import (
	"context"
	"time"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

const (
	// gatherFor is how long records wait for company: a case is revised with every
	// event of its request, and of the revisions in one transaction only the last
	// is written.
	gatherFor     = 100 * time.Millisecond
	gatherRecords = 4000
	applyTimeout  = 30 * time.Second // of one transaction; it is not cut short by the end of Run
)

// A gathering is what has come from the log and is not folded yet.
type gathering struct {
	recs     []event.Record
	next     positions // after recs; nil when there are none
	caughtUp bool      // everything that was there at the start is in it or was before
}

// follow gives the log to the tables. What is gathered and not committed when it
// ends is read again by the next run.
func (v *View) follow(ctx context.Context) error {
	g := run.New(ctx)
	in := make(chan gathering, 1)
	g.Go("tail", func(ctx context.Context) error {
		defer close(in)
		send := func(b gathering) error {
			select {
			case in <- b:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return v.cfg.Source.Tail(ctx, stream.TailConfig{
			Name: v.cfg.Name, Topics: v.cfg.Topics, From: clonePositions(v.next),
			Batch: func(_ context.Context, recs []event.Record, next map[string]map[int32]int64) error {
				return send(gathering{recs: recs, next: next})
			},
			CaughtUp: func() { _ = send(gathering{caughtUp: true}) }, // an error: the view is stopping
		})
	})
	g.Go("fold", func(ctx context.Context) error { return v.gather(ctx, in) })
	return g.Wait()
}

// gather folds what comes, together what comes within a moment.
func (v *View) gather(ctx context.Context, in <-chan gathering) error {
	var (
		all gathering
		due <-chan time.Time // nil: nothing is gathered
	)
	flush := func() error {
		if len(all.recs) > 0 {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
			defer cancel()
			if err := v.apply(ctx, all.recs, all.next); err != nil {
				return err
			}
		}
		if all.caughtUp {
			v.caughtUp.Store(true)
		}
		all, due = gathering{}, nil
		return nil
	}
	for {
		select {
		case b, ok := <-in:
			if !ok {
				return flush()
			}
			all.recs = append(all.recs, b.recs...)
			all.caughtUp = all.caughtUp || b.caughtUp
			if b.next != nil {
				all.next = b.next
			}
			if len(all.recs) < v.most {
				if due == nil {
					due = time.After(gatherFor)
				}
				continue
			}
		case <-due:
		case <-ctx.Done():
			return flush()
		}
		if err := flush(); err != nil {
			return err
		}
	}
}
