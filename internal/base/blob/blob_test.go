package blob_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
)

// replacing is a store whose Put replaces what is there, as servers do that know
// no condition.
type replacing struct {
	blob.Store
	looks bool // first; then only racing writers replace each other
	set   []bool
}

func (s *replacing) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	if s.looks {
		if _, err := s.Stat(ctx, key); err == nil {
			return blob.ErrExists
		}
		time.Sleep(50 * time.Millisecond) // long enough for the others to look
	}
	if err := s.Delete(ctx, key); err != nil {
		return err
	}
	err := s.Store.Put(ctx, key, body, size)
	if errors.Is(err, blob.ErrExists) {
		return nil
	}
	return err
}
func (s *replacing) Conditional() bool       { return true }
func (s *replacing) SetConditional(yes bool) { s.set = append(s.set, yes) }

func TestProbe(t *testing.T) { synctest.Test(t, testProbe) }

func testProbe(t *testing.T) {
	mem := blobmem.New()
	f, err := blob.Probe(t.Context(), mem, "probes/")
	if err != nil || !f.Conditional || len(mem.Keys()) != 0 {
		t.Errorf("%+v, %v, left %v", f, err, mem.Keys())
	}
	for _, looks := range []bool{false, true} {
		mem := blobmem.New()
		s := &replacing{Store: mem, looks: looks}
		c, _ := blob.Counted(s)
		f, err = blob.Probe(t.Context(), c, "")
		if err != nil || f.Conditional || len(mem.Keys()) != 0 {
			t.Errorf("looks %v: %+v, %v, left %v", looks, f, err, mem.Keys())
		}
		if diff := cmp.Diff([]bool{true, false}, s.set); diff != "" {
			t.Error(diff)
		}
	}
	mem.SetFault(func(c blobmem.Call) blobmem.Fault { return blobmem.Fault{Before: blob.ErrUnknown} })
	if _, err := blob.Probe(t.Context(), mem, ""); !errors.Is(err, blob.ErrUnknown) {
		t.Errorf("a store that fails: %v", err)
	}
}

type clock struct{ blob.Store }

func (clock) Now(context.Context) (time.Time, error) { return time.Unix(5, 0), nil }

func TestCounted(t *testing.T) {
	mem := blobmem.New()
	s, counters := blob.Counted(clock{mem})
	ctx := t.Context()
	for range 2 { // the second finds the key taken
		_ = s.Put(ctx, "k", strings.NewReader("abc"), 3)
	}
	_, _ = s.GetRange(ctx, "k", 1, make([]byte, 2))
	_, _ = s.GetRange(ctx, "none", 0, make([]byte, 2))
	_, _ = s.Stat(ctx, "k")
	_ = s.List(ctx, "", func(blob.Info) error { return errors.New("enough") })
	_ = s.Delete(ctx, "k")
	mem.SetFault(func(blobmem.Call) blobmem.Fault { return blobmem.Fault{Before: errors.New("boom")} })
	_ = s.Delete(ctx, "k")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_ = s.Delete(ended, "k")
	want := blob.Counts{Puts: 2, Gets: 2, Lists: 1, Deletes: 3, Stats: 1, BytesIn: 3, BytesOut: 2, Failures: 1}
	if diff := cmp.Diff(want, counters.Counts()); diff != "" {
		t.Error(diff)
	}
	if c, ok := blob.As[blob.Clock](s); !ok {
		t.Error("the clock below is not found")
	} else if now, err := c.Now(ctx); err != nil || now.Unix() != 5 {
		t.Error(now, err)
	}
	if _, ok := blob.As[blob.Clock](mem); ok {
		t.Error("a clock where none is")
	}
}
