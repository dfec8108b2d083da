package wal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/looptape/looptape/internal/base/disk"
)

var testID = [16]byte{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf}

const testDir = "/wal"

// small is a configuration whose files a test can damage byte by byte.
var small = Config{SegmentBytes: 6 * minAlign, MaxBatch: 6000, MaxRecord: 9000}

// running is a log whose Run is under way.
type running struct {
	*FileLog
	stop  context.CancelFunc
	ended chan error
}

func start(t testing.TB, fs disk.FS, epoch int64, cfg Config, r *Recovered) *running {
	t.Helper()
	l, err := startErr(fs, epoch, cfg, r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func startErr(fs disk.FS, epoch int64, cfg Config, r *Recovered) (*running, error) {
	l, err := Open(context.Background(), fs, testDir, Identity{testID, epoch}, cfg, r)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	run := &running{l, stop, make(chan error, 1)}
	go func() { run.ended <- l.Run(ctx) }()
	return run, nil
}

// end stops the log and returns what Run returned.
func (r *running) end() error {
	r.stop()
	err := <-r.ended
	return errors.Join(err, r.Close())
}

// put appends a record and waits until it is durable.
func (r *running) put(data string) (LSN, error) {
	type answer struct {
		lsn LSN
		err error
	}
	done := make(chan answer, 1)
	half := len(data) / 2
	want, err := r.Append(&Record{
		Data: [2][]byte{[]byte(data[:half]), []byte(data[half:])},
		Done: func(lsn LSN, err error) { done <- answer{lsn, err} },
	})
	if err != nil {
		return 0, err
	}
	a := <-done
	if a.lsn != want {
		return 0, fmt.Errorf("Done for %d, Append said %d", a.lsn, want)
	}
	return a.lsn, a.err
}

// recovered is what Recover handed out, as text.
type recovered struct {
	*Recovered
	records map[int64][]string // by epoch, from LSN First on
}

func recoverAll(fs disk.FS) (recovered, error) {
	got := recovered{records: map[int64][]string{}}
	next := map[int64]LSN{}
	var err error
	got.Recovered, err = Recover(context.Background(), fs, testDir, testID, func(epoch int64, lsn LSN, data []byte) error {
		if n := next[epoch]; n != 0 && n != lsn {
			return fmt.Errorf("epoch %d: record %d after %d", epoch, lsn, n-1)
		}
		next[epoch] = lsn + 1
		got.records[epoch] = append(got.records[epoch], string(data))
		return nil
	})
	if err != nil {
		return got, err
	}
	for _, e := range got.Epochs {
		if n := len(got.records[e.Epoch]); int64(e.Last-e.First)+1 != int64(n) {
			return got, fmt.Errorf("epoch %d: %d to %d, but %d records", e.Epoch, e.First, e.Last, n)
		}
	}
	return got, nil
}

// collector notes the answers of records appended at the same time.
type collector struct {
	mu   sync.Mutex
	lsns []LSN
	errs []error
}

func (c *collector) done(lsn LSN, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lsns = append(c.lsns, lsn)
	c.errs = append(c.errs, err)
}
