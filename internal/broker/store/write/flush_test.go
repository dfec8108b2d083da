package write

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// pipe is everything around a flusher, and notes in which order it hears of what.
type pipe struct {
	mu     sync.Mutex
	next   int64
	cuts   int64
	events []string
	store  *blobmem.Store
	fail   func() error // of a commit
}

func (p *pipe) Next(ctx context.Context) (*Cut, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == p.cuts {
		p.mu.Unlock()
		<-ctx.Done()
		p.mu.Lock()
		return nil, ctx.Err()
	}
	p.next++
	b := batch.Batch(batch.Build(batch.Plain, batch.KV{Value: make([]byte, 100)}))
	b.SetBaseOffset(p.next - 1)
	return &Cut{Epoch: 1, First: wal.LSN(p.next), Last: wal.LSN(p.next), Parts: []object.Part{{
		Topic: [16]byte{1}, Units: []object.Unit{{Base: p.next - 1, Last: p.next - 1, Batches: 1, Bytes: b}},
		Tail: object.Tail{TopicName: "a", Base: p.next - 1, End: p.next},
	}}}, nil
}

func (p *pipe) note(what string, lsn int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, fmt.Sprint(what, lsn))
}

func (p *pipe) Committed(c *Cut) { p.note("free", int64(c.Last)) }
func (p *pipe) Commit(_ context.Context, m catalog.Commit) error {
	if p.fail != nil {
		if err := p.fail(); err != nil {
			return err
		}
	}
	for _, o := range m.Objects { // what a commit names must be durable
		if !slices.Contains(p.store.Keys(), object.Key(clusterID, o.Object.Name)) {
			return fmt.Errorf("%w: %s is not there", catalog.ErrFenced, o.Object.Name)
		}
	}
	p.note("commit", m.LSN)
	return nil
}
func (p *pipe) Epoch() int64  { return 1 }
func (p *pipe) Broker() int32 { return 0 }
func (p *pipe) TrimEpoch(_ int64, upto wal.LSN) error {
	p.note("trim", int64(upto))
	return nil
}
func (p *pipe) Place(int64, wal.LSN) int64 { return 0 }

const clusterID = "AAECAwQFBgcICQoLDA0ODw"

// Puts run side by side, fail and hang; commits are made in the log's order, and
// only after one may the log be trimmed and the memory be used again.
func TestFlushInOrder(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			p := &pipe{cuts: 30, store: blobmem.New()}
			p.store.SetFault(func(c blobmem.Call) (f blobmem.Fault) {
				f.Delay = time.Duration(r.IntN(2000)) * time.Millisecond
				switch r.IntN(4) {
				case 0:
					f.Before = blob.ErrUnknown
				case 1:
					if c.Method == "Put" {
						f.After = blob.ErrUnknown
					}
				}
				return f
			})
			other := rand.New(rand.NewPCG(seed, 2)) // of another goroutine
			p.fail = func() error {
				if other.IntN(3) == 0 {
					return errors.New("unreachable")
				}
				return nil
			}
			names := NewNames()
			f := NewFlusher(p, p.store, p, p, clusterID, [16]byte{1}, Config{Names: names}, quiet)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- f.Run(ctx) }()
			time.Sleep(20 * time.Minute)
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			var want []string
			for lsn := range p.cuts {
				want = append(want, fmt.Sprint("commit", lsn+1), fmt.Sprint("trim", lsn+1), fmt.Sprint("free", lsn+1))
			}
			if got := strings.Join(p.events, " "); got != strings.Join(want, " ") {
				t.Errorf("seed %d: %s", seed, got)
			}
			s := f.Stats()
			if s.Commits != p.cuts || s.Objects != p.cuts || s.Failures == 0 || s.Stalled != 0 || len(names.all) != 0 {
				t.Errorf("seed %d: %+v, %d names", seed, s, len(names.all))
			}
		})
	}
}

// A store that takes nothing stops the flow where it stands: nothing is committed
// or let go, what waits is counted, and what comes back goes on.
func TestFlushStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{cuts: 10, store: blobmem.New()}
		p.store.SetFault(func(blobmem.Call) blobmem.Fault { return blobmem.Fault{Before: errors.New("503")} })
		f := NewFlusher(p, p.store, p, p, clusterID, [16]byte{1}, Config{}, quiet)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		p.mu.Lock()
		taken, events := p.next, len(p.events)
		p.mu.Unlock()
		if s := f.Stats(); s.Stalled == 0 || s.Commits != 0 || events != 0 || taken > 5 {
			t.Errorf("%+v, %d cuts taken, %d events", s, taken, events)
		}
		p.store.SetFault(nil)
		time.Sleep(time.Minute)
		if s := f.Stats(); s.Stalled != 0 || s.Commits != p.cuts {
			t.Errorf("%+v", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A fenced commit, or an object under our name that is not ours, ends it.
func TestFlushEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{cuts: 3, store: blobmem.New(), fail: func() error { return catalog.ErrFenced }}
		f := NewFlusher(p, p.store, p, p, clusterID, [16]byte{1}, Config{}, quiet)
		if err := f.Run(t.Context()); !errors.Is(err, catalog.ErrFenced) {
			t.Error(err)
		}
		p = &pipe{cuts: 3, store: blobmem.New()}
		id := object.Identity{Cluster: clusterID, Epoch: 1, Kind: object.Flush, Seq: 2}
		if err := p.store.Put(t.Context(), object.Key(clusterID, id.Name()), strings.NewReader("other"), 5); err != nil {
			t.Fatal(err)
		}
		f = NewFlusher(p, p.store, p, p, clusterID, [16]byte{1}, Config{}, quiet)
		if err := f.Run(t.Context()); !errors.Is(err, errForeign) {
			t.Error(err)
		}
		for _, e := range p.events {
			if e != "commit1" && e != "trim1" && e != "free1" {
				t.Errorf("after a foreign object: %s", e)
			}
		}
	})
}
