package blobs3

import (
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob"
)

// end waits for the read under way, and nothing is read after it.
func TestBodyEnds(t *testing.T) {
	var b *bodyReader
	reads, done := 0, make(chan struct{})
	b = &bodyReader{size: 8, from: readerAt(func(p []byte, off int64) (int, error) {
		reads++
		if reads == 2 { // the put ends while a connection reads
			go func() {
				defer close(done)
				if err := b.end(); err != nil {
					t.Error(err)
				}
			}()
			for range 100 {
				runtime.Gosched()
			}
			select {
			case <-done:
				t.Error("end did not wait for the read under way")
			default:
			}
		}
		return copy(p, "01234567"[off:]), nil
	})}
	for range 2 {
		if _, err := b.Read(make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	if _, err := b.Read(make([]byte, 2)); !errors.Is(err, errEnded) || reads != 2 {
		t.Errorf("a read after the end: %v, %d reads", err, reads)
	}
}

// A body is read in order, once, and no further than its size.
func TestBodyReader(t *testing.T) {
	b := &bodyReader{from: strings.NewReader("0123456789"), size: 7}
	all, err := io.ReadAll(b)
	if diff := cmp.Diff("0123456", string(all)); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if _, ok := any(b).(io.Seeker); ok {
		t.Error("a body that can be rewound would be, while an old connection still reads it")
	}
	b = &bodyReader{from: strings.NewReader("012"), size: 7}
	if _, err := io.ReadAll(b); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(b.end(), io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// A body that can't be read is the caller's affair: it is not tried again, and
// leaves no doubt, since no server takes half of it.
func TestPutOfBrokenBody(t *testing.T) {
	f := newFake(t)
	err := f.open(t, nil).Put(t.Context(), "k", strings.NewReader("abc"), 100_000)
	if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, blob.ErrUnknown) {
		t.Error(err)
	}
	if n := f.sent(http.MethodPut); n > 1 || len(f.objects) != 0 {
		t.Errorf("asked %d times, %d objects", n, len(f.objects))
	}
}
