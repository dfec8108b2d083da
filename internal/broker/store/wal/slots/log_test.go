package slots

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// slow makes every put take d.
func slow(d time.Duration) func(int, string) outcome {
	return func(int, string) outcome { return outcome{delay: d} }
}

func TestAppendSealRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newLate(slow(20 * time.Millisecond))
		l := start(t, testConfig(store))
		var want []string
		for i := 1; i <= 300; i++ {
			data := text(i)
			if i%50 == 0 {
				data = strings.Repeat(data, 500) // above copyBelow
			}
			want = append(want, data)
			l.add(data)
			if i%7 == 0 {
				time.Sleep(9 * time.Millisecond)
			}
		}
		if err := l.end(); err != nil {
			t.Fatal(err)
		}
		if n := l.fates(300); n != 300 || l.Durable() != 300 {
			t.Errorf("%d acknowledged, durable %d", n, l.Durable())
		}
		if diff := cmp.Diff(want, recoverAll(t, store)); diff != "" {
			t.Error(diff)
		}
		s := l.Requests()
		if s.Records != 300 || s.Commits != s.Puts || s.Puts != int64(store.count()-1) || s.QueuedBytes != 0 || s.InFlight != 0 ||
			s.PutNanos != s.Puts*int64(20*time.Millisecond) || s.WrittenBytes != s.UncommittedBytes {
			t.Errorf("stats %+v, %d puts and a seal", s, store.count()-1)
		}
	})
}

// The first record goes at once; while it is in flight others gather for the
// linger; when nothing is in flight any more they go at once.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := 200 * time.Millisecond
		var puts []time.Duration
		began := time.Now()
		store := newLate(func(n int, _ string) outcome {
			puts = append(puts, time.Since(began))
			return outcome{delay: took}
		})
		l := start(t, testConfig(store))
		add := func(at time.Duration) {
			time.Sleep(at - time.Since(began))
			l.add("x")
			synctest.Wait()
		}
		const ms = time.Millisecond
		add(0)
		add(10 * ms) // lingers until 60
		add(59 * ms) // with it
		add(61 * ms) // until 111
		add(180 * ms)
		store.mu.Lock() // the hook runs under it
		took = 20 * ms
		store.mu.Unlock()
		// 200: the first is done, but the second is in flight until 260
		add(300 * ms) // 180's went at 230, until 250; 260 and 311 end the others
		add(400 * ms) // nothing in flight
		add(401 * ms) // goes when 400's is done, at 420
		time.Sleep(time.Second)
		if err := l.end(); err != nil || l.fates(8) != 8 {
			t.Error(err)
		}
		want := []time.Duration{0, 60 * ms, 111 * ms, 230 * ms, 311 * ms, 400 * ms, 420 * ms}
		store.mu.Lock()
		defer store.mu.Unlock()
		if diff := cmp.Diff(want, puts); diff != "" {
			t.Error(diff)
		}
	})
}

// Without appends nothing is asked of the store, and no timer is set.
func TestIdleAsksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := blobmem.New()
		calls := 0
		l := start(t, testConfig(store))
		for range 3 {
			l.add("x")
			time.Sleep(time.Second)
		}
		if err := l.Trim(2); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		store.SetFault(func(blobmem.Call) blobmem.Fault { calls++; return blobmem.Fault{} })
		time.Sleep(240 * time.Hour)
		if calls != 0 {
			t.Errorf("%d calls in ten idle days", calls)
		}
		if err := l.end(); err != nil || calls != 0 {
			t.Errorf("%v, %d calls", err, calls)
		}
	})
}

// Full slots go at once, at most InFlight at a time; what comes meanwhile goes
// into later slots.
func TestFullSlotsAndInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newLate(slow(time.Second))
		cfg := testConfig(store)
		cfg.MaxSlotBytes, cfg.InFlight = 1000, 3
		l := start(t, cfg)
		for range 50 {
			l.add(strings.Repeat("x", 400)) // two fill a slot
		}
		synctest.Wait()
		s := l.Requests()
		if s.InFlight != 3 || store.count() != 3 || s.QueuedBytes != 50*412+25*headerBytes && s.QueuedBytes != 50*412+26*headerBytes {
			t.Errorf("%+v, %d puts", s, store.count())
		}
		time.Sleep(1500 * time.Millisecond)
		if l.Requests().InFlight != 3 || store.count() != 6 {
			t.Errorf("%+v, %d puts", l.Requests(), store.count())
		}
		if err := l.end(); err != nil || l.fates(50) != 50 {
			t.Error(err)
		}
		// The first went alone or in a pair, depending on who ran first.
		if n := len(recoverAll(t, store)); n != 50 || store.count() < 26 || store.count() > 27 {
			t.Errorf("%d records in %d slots", n, store.count()-1)
		}
	})
}

func TestLargeRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newLate(slow(time.Millisecond))
		cfg := testConfig(store)
		cfg.MaxSlotBytes, cfg.MaxRecord = 1000, 5000
		l := start(t, cfg)
		want := []string{"a", strings.Repeat("b", 5000), "c", "", strings.Repeat("d", 980), strings.Repeat("e", 4000)}
		for _, w := range want {
			l.add(w)
		}
		if _, err := l.Append(l.record(strings.Repeat("f", 5001))); !errors.Is(err, wal.ErrTooLarge) {
			t.Errorf("got %v", err)
		}
		if err := l.end(); err != nil || l.fates(6) != 6 {
			t.Error(err)
		}
		if diff := cmp.Diff(want, recoverAll(t, store)); diff != "" {
			t.Error(diff)
		}
		if _, err := l.Append(l.record("x")); !errors.Is(err, wal.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if err := l.Reserve(t.Context(), 1); !errors.Is(err, wal.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

// While slots get full, the next one waits to be full as long as a put takes, and
// no longer; also when nothing is in flight.
func TestBulkLinger(t *testing.T) {
	for _, c := range []struct{ put, want time.Duration }{
		{20 * time.Millisecond, 50 * time.Millisecond},
		{150 * time.Millisecond, 150 * time.Millisecond},
		{600 * time.Millisecond, 600 * time.Millisecond},
		{1600 * time.Millisecond, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			var puts []time.Time
			store := newLate(func(int, string) outcome {
				puts = append(puts, time.Now())
				return outcome{delay: c.put}
			})
			cfg := testConfig(store)
			cfg.MaxSlotBytes = 1000
			l := start(t, cfg)
			l.add("x") // alone
			time.Sleep(c.put)
			full := time.Now()
			for range 20 {
				l.add(strings.Repeat("x", 100))
			}
			time.Sleep(10 * time.Second)
			if err := l.end(); err != nil || l.fates(21) != 21 {
				t.Error(err)
			}
			store.mu.Lock()
			defer store.mu.Unlock()
			// The first goes at once, the last lingers, those between are full.
			if len(puts) != 4 || puts[3].Sub(full) != c.want {
				t.Errorf("puts of %v: %d, the last after %v, want after %v", c.put, len(puts), puts[len(puts)-1].Sub(full), c.want)
			}
		})
	}
}

// Slots that are stored out of order are acknowledged in order.
func TestReorderedCompletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		delays := []time.Duration{900, 500, 700, 100, 300}
		store := newLate(func(n int, _ string) outcome { return outcome{delay: delays[n] * time.Millisecond} })
		l := start(t, testConfig(store))
		began := time.Now()
		for range delays {
			l.add("x")
			time.Sleep(60 * time.Millisecond) // a slot each
		}
		time.Sleep(2 * time.Second)
		if l.fates(5) != 5 {
			t.Fatal("not all acknowledged")
		}
		for i, at := range l.at {
			if at.Sub(began) < 900*time.Millisecond {
				t.Errorf("record %d acknowledged after %v, before the first slot was stored", i+1, at.Sub(began))
			}
		}
		if err := l.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestStopWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newLate(func(int, string) outcome { return outcome{lost: true} })
		l := start(t, testConfig(store))
		l.add("x")
		l.add("y")
		time.Sleep(time.Second)
		began := time.Now()
		err := l.end()
		if err == nil || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if l.fates(2) != 0 || !errors.Is(l.errs[0], wal.ErrFailed) {
			t.Errorf("acknowledged %v, errors %v", l.acked, l.errs)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	store := blobmem.New()
	ctx := context.Background()
	cfg := testConfig(store)
	if _, err := Open(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no epoch": func(c *Config) { c.Epoch = 0 },
		"an epoch with slots": func(c *Config) {
			if err := store.Put(ctx, fmt.Sprintf("%s/1/8/%020d", testPrefix, 3), strings.NewReader("x"), 1); err != nil {
				t.Fatal(err)
			}
			c.Epoch = 8
		},
		"an adopted epoch that is not older": func(c *Config) { c.Adopted = []*Recovered{{Broker: 1, Epoch: 7}} },
		"one of another broker":              func(c *Config) { c.Adopted = []*Recovered{{Broker: 2, Epoch: 1}} },
	} {
		c := cfg
		change(&c)
		if _, err := Open(ctx, c); !errors.Is(err, wal.ErrEpoch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := cfg
	c.Conditional = false
	if _, err := Open(ctx, c); err == nil {
		t.Error("no check of the fence, and no conditional puts: no error")
	}
	c = cfg
	c.Prefix = "no//key"
	if _, err := Open(ctx, c); !errors.Is(err, blob.ErrBadKey) {
		t.Errorf("got %v", err)
	}
}
