package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// errDisk is what a broken disk says.
var errDisk = errors.New("input/output error")

// ended waits until the process has ended by itself.
func (p *process) ended(t *testing.T) error {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Fatal("the process goes on")
	}
	p.cancel()
	return p.err
}

// The log is trimmed when objects hold the records and the catalog says so, not
// before: whatever stands still in between, a power cut loses nothing.
func TestTrap02LogIsTrimmedAfterTheCommit(t *testing.T) {
	for calls := range 8 {
		w := newWorld()
		w.cfg.Log.SegmentBytes = 16 << 10 // several, so that a trim takes files away
		p := w.mustStart(t)
		topic := p.create(t, "events", 2, nil)
		p.mu.Lock()
		p.killAt = p.calls + 1 + calls // of puts and commits
		p.mu.Unlock()
		var want [2]int
		for i := range 100 {
			at := i % 2
			part := p.partition(t, topic, int32(at))
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			out := appendCtx(ctx, part, plain(fmt.Sprint(i, strings.Repeat("x", 900))))
			cancel()
			if out.Err != nil {
				break // the log is full, or the process dead
			}
			want[at]++
		}
		p.kill(t, nil)
		p = w.mustStart(t)
		for at, n := range want {
			if n == 0 {
				continue
			}
			got := values(t, p.partition(t, topic, int32(at)), 0, partition.Read{MaxBytes: 1 << 20})
			if len(got) < n {
				t.Fatalf("killed at call %d: %d records of %d in partition %d", calls+1, len(got), n, at)
			}
		}
		p.stop(t)
	}
}

// A failed commit of the log fails everything in it and everything that was given
// an offset after it, in all partitions, and whoever repeats one of them.
func TestTrap03FailedCommitFailsAllAfterIt(t *testing.T) {
	for k := 1; k <= 4; k++ {
		w := newWorld()
		p := w.mustStart(t)
		topic := p.create(t, "events", 3, nil)
		parts := make([]*partition.Partition, 3)
		for i := range parts {
			parts[i] = p.partition(t, topic, int32(i))
			if a := appendTo(parts[i], partition.Append{Batches: idempotent(int64(i), 0, 0, "a")}); a.Err != nil {
				t.Fatal(a.Err)
			}
		}
		w.files.FailAt(k, errDisk)
		acked := make([]int64, len(parts)) // the last offset acknowledged
		failed := false
		for seq := int32(1); seq < 30; seq++ {
			for i, part := range parts {
				a := appendTo(part, partition.Append{Batches: idempotent(int64(i), 0, seq, "b")})
				switch {
				case a.Err == nil && failed:
					t.Fatalf("k=%d: offset %d acknowledged after a failure", k, a.Base)
				case a.Err == nil:
					acked[i] = a.Last
				case !errors.Is(a.Err, partition.ErrStorage) && !errors.Is(a.Err, wal.ErrFailed) && !errors.Is(a.Err, partition.ErrNotLeader):
					t.Fatalf("k=%d: %v", k, a.Err)
				default:
					failed = true
					if again := appendTo(part, partition.Append{Batches: idempotent(int64(i), 0, seq, "b")}); again.Err == nil {
						t.Fatalf("k=%d: a repetition of what failed is acknowledged: %+v", k, again)
					}
				}
			}
		}
		if !failed {
			t.Fatalf("k=%d: nothing failed", k)
		}
		if err := p.ended(t); !errors.Is(err, errDisk) {
			t.Fatalf("k=%d: the process ended with %v", k, err)
		}
		w.files = w.files.Crash(rand.New(rand.NewPCG(uint64(k), 1)))
		p = w.mustStart(t)
		for i := range parts {
			got := values(t, p.partition(t, topic, int32(i)), 0, partition.Read{MaxBytes: 1 << 20})
			if int64(len(got)) <= acked[i] {
				t.Errorf("k=%d: %d records, offset %d was acknowledged", k, len(got), acked[i])
			}
		}
		p.stop(t)
	}
}

// After a failed write or sync the process ends and says what failed; nothing is
// acknowledged any more, though later syncs would succeed.
func TestTrap04FailedSyncEndsTheProcess(t *testing.T) {
	syncs := 0
	for k := 1; k <= 24; k++ {
		w := newWorld()
		p := w.mustStart(t)
		topic := p.create(t, "events", 1, nil)
		part := p.partition(t, topic, 0)
		w.files.FailAt(k, errDisk)
		acked := 0
		for a := (partition.Appended{}); a.Err == nil; acked++ {
			if a = appendTo(part, partition.Append{Batches: plain("x")}); a.Err != nil {
				break
			}
		}
		if a := appendTo(part, partition.Append{Batches: plain("y")}); a.Err == nil {
			t.Errorf("k=%d: acknowledged after a failure", k)
		}
		err := p.ended(t)
		if !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "/wal") {
			t.Errorf("k=%d: the process ended with %v", k, err)
		}
		if strings.Contains(err.Error(), "sync /wal/0") {
			syncs++
		}
		w.files = w.files.Crash(nil)
		p = w.mustStart(t)
		if got := values(t, p.partition(t, topic, 0), 0, partition.Read{MaxBytes: 1 << 20}); len(got) < acked {
			t.Errorf("k=%d: %d records, %d were acknowledged", k, len(got), acked)
		}
		p.stop(t)
	}
	if syncs == 0 {
		t.Error("no sync of a commit failed")
	}
}

// A producer's sequence counts when its batch is durable: a retry after a failure
// is taken if the batch is gone, and found to be a duplicate if it is there. Either
// way it is in the log once.
func TestTrap06RetryAfterFailure(t *testing.T) {
	lost, found := 0, 0
	for seed := range uint64(40) {
		w := newWorld()
		p := w.mustStart(t)
		topic := p.create(t, "events", 1, nil)
		part := p.partition(t, topic, 0)
		for seq := range int32(3) {
			if a := appendTo(part, partition.Append{Batches: idempotent(7, 0, seq, fmt.Sprint(seq))}); a.Err != nil {
				t.Fatal(a.Err)
			}
		}
		w.files.FailAt(2, errDisk) // the sync
		if a := appendTo(part, partition.Append{Batches: idempotent(7, 0, 3, "3")}); a.Err == nil {
			p.kill(t, nil) // it was the next segment that failed
			continue
		}
		if err := p.ended(t); err == nil {
			t.Fatal("the process ended without an error")
		}
		w.files = w.files.Crash(rand.New(rand.NewPCG(seed, 6)))
		p = w.mustStart(t)
		part = p.partition(t, topic, 0)
		a := appendTo(part, partition.Append{Batches: idempotent(7, 0, 3, "3")})
		if a.Err != nil || a.Base != 3 {
			t.Fatalf("seed %d: the retry got %+v", seed, a)
		}
		if a.Duplicate {
			found++
		} else {
			lost++
		}
		if got := values(t, part, 0, partition.Read{MaxBytes: 1 << 20}); len(got) != 4 || got[0]+got[1]+got[2]+got[3] != "0123" {
			t.Fatalf("seed %d: %v", seed, got)
		}
		p.stop(t)
	}
	if lost == 0 || found == 0 {
		t.Errorf("the batch was lost %d times and found %d times", lost, found)
	}
}

// What is known of producers after a restart is what all durable batches say:
// those in objects, those only in the log, and both after one another.
func TestTrap07ProducerStateIsThatOfAllDurableBatches(t *testing.T) {
	w := newWorld()
	p := w.mustStart(t)
	topic := p.create(t, "events", 1, nil)
	next := map[int64]int32{}
	put := func(id int64) {
		t.Helper()
		seq := next[id]
		if a := appendTo(p.partition(t, topic, 0), partition.Append{Batches: idempotent(id, 0, seq, "v")}); a.Err != nil || a.Duplicate {
			t.Fatalf("producer %d sequence %d: %+v", id, seq, a)
		}
		next[id]++
	}
	r := rand.New(rand.NewPCG(7, 7))
	total := int64(0)
	for round := range 12 {
		for range 10 {
			put(r.Int64N(5))
			total++
		}
		if round%3 != 0 {
			p.flush(t)
		}
		for range 5 { // only in the log
			put(r.Int64N(5))
			total++
		}
		switch round % 2 {
		case 0:
			p.kill(t, nil)
		case 1:
			p.stop(t)
		}
		p = w.mustStart(t)
		part := p.partition(t, topic, 0)
		for id, seq := range next {
			if a := appendTo(part, partition.Append{Batches: idempotent(id, 0, seq-1, "v")}); a.Err != nil || !a.Duplicate {
				t.Fatalf("round %d: the last batch of producer %d again: %+v", round, id, a)
			}
			if a := appendTo(part, partition.Append{Batches: idempotent(id, 0, seq+1, "v")}); !errors.Is(a.Err, partition.ErrOutOfOrderSequence) {
				t.Fatalf("round %d: a hole in the sequence of producer %d: %+v", round, id, a)
			}
		}
		if _, high, _ := part.Offsets(); high != total {
			t.Fatalf("round %d: high watermark %d, want %d", round, high, total)
		}
	}
	p.stop(t)
}

// gatedFiles is a disk whose syncs of log segments wait at a gate, and may fail.
type gatedFiles struct {
	disk.FS
	gate chan error // a sync takes one answer; closed: all succeed
}

func (g gatedFiles) OpenFile(name string, mode disk.Mode) (disk.File, error) {
	f, err := g.FS.OpenFile(name, mode)
	if err != nil || !mode.Write || !strings.HasSuffix(name, ".wal") {
		return f, err
	}
	return gatedFile{f, g.gate}, nil
}

type gatedFile struct {
	disk.File
	gate chan error
}

func (f gatedFile) Datasync() error {
	if err := <-f.gate; err != nil {
		return err
	}
	return f.File.Datasync()
}

// A duplicate of a batch that is on its way is answered with the first attempt,
// not before: with its offset, or with its failure.
func TestTrap06DuplicateWaitsForTheFirstAttempt(t *testing.T) {
	for _, outcome := range []error{nil, errDisk} {
		w := newWorld()
		files := gatedFiles{w.files, make(chan error, 10)}
		for range 3 {
			files.gate <- nil // the adopt block, and whatever opening syncs
		}
		ctx, cancel := context.WithCancel(context.Background())
		e, err := OpenStore(ctx, Parts{Files: files, Dir: "/wal", Blobs: w.blobs, Meta: w.meta}, w.cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
		if err != nil {
			t.Fatal(err)
		}
		for len(files.gate) > 0 {
			<-files.gate
		}
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		topic, err := e.Catalog().CreateTopic(ctx, catalog.Topic{Name: "t", Partitions: 1})
		if err != nil {
			t.Fatal(err)
		}
		part, err := e.Partitions().Get(partition.ID{Topic: topic.ID})
		if err != nil {
			t.Fatal(err)
		}
		out := make(chan partition.Appended, 3)
		for range 2 {
			part.Append(ctx, partition.Append{Batches: idempotent(7, 0, 0, "v"), Done: func(a partition.Appended) { out <- a }})
		}
		select {
		case a := <-out:
			t.Fatalf("answered before the sync: %+v", a)
		case <-time.After(20 * time.Millisecond):
		}
		if outcome != nil {
			files.gate <- outcome
		} else {
			close(files.gate)
		}
		first, second := <-out, <-out
		if outcome == nil {
			if first.Err != nil || second.Err != nil || first.Base != second.Base || first.Duplicate || !second.Duplicate {
				t.Errorf("%+v, then %+v", first, second)
			}
		} else {
			if first.Err == nil || second.Err == nil {
				t.Errorf("after a failure: %+v, then %+v", first, second)
			}
			third := make(chan partition.Appended, 1)
			part.Append(ctx, partition.Append{Batches: idempotent(7, 0, 0, "v"), Done: func(a partition.Appended) { third <- a }})
			select {
			case a := <-third:
				if a.Err == nil {
					t.Errorf("later: %+v", a)
				}
			case <-time.After(10 * time.Second):
				t.Error("a duplicate after the failure has no answer")
			}
		}
		cancel()
		if err := <-done; (err == nil) != (outcome == nil) {
			t.Errorf("ended with %v", err)
		}
	}
}
