package slots

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

const testPrefix = "wal/c1"

var (
	testNonce = [16]byte{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf}
	taker     = Writer{Broker: 2, Epoch: 9, Nonce: [16]byte{0xb0, 0xb1}}
)

func testConfig(store blob.Store) Config {
	return Config{Store: store, Prefix: testPrefix, Broker: 1, Epoch: 7, Nonce: testNonce, Conditional: true, BudgetPerMonth: -1}
}

// lateStore is a store on a bad line: hook says what becomes of each Put.
type lateStore struct {
	*blobmem.Store
	mu   sync.Mutex
	puts int
	hook func(n int, key string) outcome
	wg   sync.WaitGroup
	up   func() bool // nil: the process is alive
}

// outcome of a Put: after delay it takes effect, unless lost; the caller hears err
// after answer, whether it took effect by then or not.
type outcome struct {
	delay  time.Duration
	lost   bool
	answer time.Duration // 0: when it took effect
	err    error         // nil: what the store says
}

func newLate(hook func(n int, key string) outcome) *lateStore {
	return &lateStore{Store: blobmem.New(), hook: hook}
}

func (s *lateStore) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	data := make([]byte, size)
	if _, err := body.ReadAt(data, 0); err != nil && err != io.EOF {
		return fmt.Errorf("read body: %w", err)
	}
	s.mu.Lock()
	n := s.puts
	s.puts++
	var o outcome
	if s.hook != nil {
		o = s.hook(n, key)
	}
	s.mu.Unlock()
	said := make(chan error, 1)
	s.wg.Go(func() {
		time.Sleep(o.delay)
		if o.lost {
			said <- blob.ErrUnknown
			return
		}
		said <- s.Store.Put(context.Background(), key, bytes.NewReader(data), size)
	})
	var timeout <-chan time.Time
	if o.answer > 0 {
		timeout = time.After(o.answer)
	}
	select {
	case err := <-said:
		if o.err != nil {
			err = o.err
		}
		return err
	case <-timeout:
		return fmt.Errorf("put %s: %w: no answer", key, blob.ErrUnknown)
	case <-ctx.Done():
		return fmt.Errorf("put %s: %w: %w", key, blob.ErrUnknown, ctx.Err())
	}
}

func (s *lateStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts
}

// running is a log whose Run is under way.
type running struct {
	*Log
	t     testing.TB
	stop  context.CancelFunc
	ended chan error

	mu    sync.Mutex
	acked []wal.LSN
	lost  []wal.LSN
	errs  []error
	at    []time.Time // of acked
}

func start(t testing.TB, cfg Config) *running {
	t.Helper()
	l, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Log: l, t: t, stop: stop, ended: make(chan error, 1)}
	go func() { r.ended <- l.Run(ctx) }()
	return r
}

// end stops the log and returns what Run returned.
func (r *running) end() error {
	r.stop()
	return errors.Join(<-r.ended, r.Close())
}

// add appends a record and notes its fate.
func (r *running) add(data string) wal.LSN {
	r.t.Helper()
	lsn, err := r.Append(r.record(data))
	if err != nil {
		r.t.Fatal(err)
	}
	return lsn
}

func (r *running) record(data string) *wal.Record {
	half := len(data) / 2
	return &wal.Record{
		Data: [2][]byte{[]byte(data[:half]), []byte(data[half:])},
		Done: func(lsn wal.LSN, err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if err != nil {
				r.lost, r.errs = append(r.lost, lsn), append(r.errs, err)
				return
			}
			r.acked, r.at = append(r.acked, lsn), append(r.at, time.Now())
		},
	}
}

// fates checks that every record was answered once, in order, the acknowledged
// before the lost, and returns how many were acknowledged.
func (r *running) fates(appended int) int {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, lsn := range append(r.acked[:len(r.acked):len(r.acked)], r.lost...) {
		if lsn != wal.LSN(i+1) {
			r.t.Fatalf("answer %d is for LSN %d", i+1, lsn)
		}
	}
	if got := len(r.acked) + len(r.lost); got != appended {
		r.t.Fatalf("%d answers for %d records", got, appended)
	}
	return len(r.acked)
}

// text is the content of record lsn in most tests.
func text(lsn int) string { return fmt.Sprintf("record %d %s", lsn, bytes.Repeat([]byte{'x'}, lsn%17)) }

// recoverAll seals epoch 7 and reads it from its start.
func recoverAll(t testing.TB, store blob.Store) []string {
	t.Helper()
	end, err := Seal(context.Background(), store, testPrefix, 1, 7, 0, taker)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := readAll(store, 1, end)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// readAll reads slots and checks that LSNs have no gap.
func readAll(store blob.Store, from, end int64) ([]string, *Recovered, error) {
	var got []string
	next := wal.LSN(0)
	r, err := Read(context.Background(), store, testPrefix, 1, 7, from, end, func(lsn wal.LSN, data []byte) error {
		if next != 0 && lsn != next {
			return fmt.Errorf("LSN %d after %d", lsn, next-1)
		}
		next = lsn + 1
		got = append(got, string(data))
		return nil
	})
	if err == nil && len(got) > 0 && r.Last-r.First+1 != wal.LSN(len(got)) {
		err = fmt.Errorf("%d to %d, but %d records", r.First, r.Last, len(got))
	}
	return got, r, err
}

// bodyNotes notes what was put under each key.
type bodyNotes struct {
	*lateStore
	sent map[string][]string
}

func (s *bodyNotes) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	b := make([]byte, size)
	if _, err := body.ReadAt(b, 0); err != nil && err != io.EOF {
		return err
	}
	s.mu.Lock()
	s.sent[key] = append(s.sent[key], string(b))
	s.mu.Unlock()
	return s.lateStore.Put(ctx, key, body, size)
}
