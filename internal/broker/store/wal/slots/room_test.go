package slots

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// callers append n records of 100 bytes each at the same time, each after Reserve.
func callers(l *running, n int) *sync.WaitGroup {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if err := l.Reserve(context.Background(), 120); err != nil {
				return
			}
			r := l.record(strings.Repeat("x", 100))
			r.Reserved = 120
			if _, err := l.Append(r); err != nil {
				l.Return(120)
			}
		})
	}
	return &wg
}

// However many callers come together, what is queued stays below the bound, and all
// get through in the end.
func TestRoomIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newLate(slow(100 * time.Millisecond))
		cfg := testConfig(store)
		cfg.MaxSlotBytes, cfg.MaxQueued = 1000, 3000
		l := start(t, cfg)
		wg := callers(l, 1000)
		most := int64(0)
		for range 10_000 {
			synctest.Wait()
			most = max(most, l.Stats().QueuedBytes)
			time.Sleep(10 * time.Millisecond)
		}
		wg.Wait()
		if most > 3000+4*headerBytes || most < 2000 {
			t.Errorf("%d bytes were queued", most)
		}
		if n := l.fates(1000); n != 1000 || l.Stats().ReserveWaits == 0 || l.promised != 0 {
			t.Errorf("%d acknowledged, %d set aside, %+v", n, l.promised, l.Stats())
		}
		if err := l.end(); err != nil {
			t.Error(err)
		}
	})
}

// While the store is throttled there is less room and fewer puts; it recovers.
func TestThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		throttled := true
		store := newLate(func(int, string) outcome {
			mu.Lock()
			defer mu.Unlock()
			if throttled {
				return outcome{delay: 5 * time.Millisecond, lost: true, err: blob.ErrUnknown}
			}
			return outcome{delay: 5 * time.Millisecond}
		})
		cfg := testConfig(store)
		cfg.MaxSlotBytes, cfg.MaxQueued = 1000, 8000
		l := start(t, cfg)
		wg := callers(l, 500)
		time.Sleep(10 * time.Minute)
		s := l.Requests()
		// Eight slots were started before the first answer; each is tried every 5 s.
		if s.Window != 1 || s.QueuedBytes > 8000+8*headerBytes || s.Retries > 8*(600/2+10) || s.Retries < 8*600/6 {
			t.Errorf("throttled: %+v", s)
		}
		mu.Lock()
		throttled = false
		mu.Unlock()
		time.Sleep(time.Minute)
		wg.Wait()
		if s := l.Requests(); s.Window != 8 || s.Records != 500 {
			t.Errorf("recovered: %+v", s)
		}
		if err := l.end(); err != nil || l.fates(500) != 500 {
			t.Error(err)
		}
	})
}

// What is not trimmed is bounded, too; a trim lets callers go on.
func TestUncommittedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newLate(slow(time.Millisecond))
		cfg := testConfig(store)
		cfg.MaxSlotBytes, cfg.MaxUncommitted = 1000, 5000
		l := start(t, cfg)
		wg := callers(l, 100)
		time.Sleep(time.Minute)
		if s := l.Stats(); s.UncommittedBytes > 5000+headerBytes || s.UncommittedBytes < 4000 || s.QueuedBytes != 0 {
			t.Errorf("%+v", s)
		}
		for range 100 {
			if err := l.Trim(l.Durable()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		wg.Wait()
		if err := l.end(); err != nil || l.fates(100) != 100 {
			t.Error(err)
		}
	})
}

// First come, first served; who gives up or gives back makes room for the next.
func TestReserveOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(newLate(nil))
		cfg.MaxQueued = 100
		l, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Reserve(t.Context(), 60); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []string
		wait := func(name string, n int, ctx context.Context) {
			go func() {
				err := l.Reserve(ctx, n)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					order = append(order, name)
				case errors.Is(err, context.Canceled):
					order = append(order, name+" left")
				default:
					order = append(order, name+" refused")
				}
			}()
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		wait("large", 90, ctx)
		wait("small", 10, t.Context()) // would fit, but is second
		wait("huge", 500, t.Context()) // only ever alone
		wait("last", 50, t.Context())
		if len(order) != 0 {
			t.Fatal(order)
		}
		cancel()
		synctest.Wait()
		slices.Sort(order) // the two are told at the same time
		l.Return(60)
		synctest.Wait()
		l.Return(10)
		synctest.Wait()
		l.end()
		synctest.Wait()
		if got := strings.Join(order, ", "); got != "large left, small, huge, last refused" {
			t.Error(got)
		}
		if _, err := l.Append(&wal.Record{}); !errors.Is(err, wal.ErrClosed) {
			t.Error(err)
		}
	})
}

// Who gives up in the moment he is let in gives his room back.
func TestLeaveAfterLetIn(t *testing.T) {
	cfg := testConfig(newLate(nil))
	cfg.MaxQueued = 100
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Reserve(t.Context(), 60); err != nil {
		t.Fatal(err)
	}
	w, err := l.enter(90)
	if w == nil || err != nil {
		t.Fatal(w, err)
	}
	l.Return(60)
	<-w.in
	l.leave(w)
	if l.promised != 0 {
		t.Errorf("%d bytes set aside for nobody", l.promised)
	}
}
