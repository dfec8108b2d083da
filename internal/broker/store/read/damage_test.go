package read

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// serve reads all of a partition, as far as it goes, and fails the test if a byte
// of it is not as it was written.
func serve(t *testing.T, r *Reader, want map[int64][]byte, end int64) error {
	t.Helper()
	for next := int64(0); next < end; {
		res, err := r.Read(context.Background(), Query{Partition: part(0), Offset: next, End: end, MaxBytes: 200, AtLeastOne: true})
		if err != nil {
			return err
		}
		for _, run := range res.Records {
			for b := range batch.Split(run) {
				if !bytes.Equal(b, want[b.BaseOffset()]) {
					t.Fatalf("other bytes are served at offset %d", b.BaseOffset())
				}
			}
		}
		next = res.Next
		res.Release()
	}
	return nil
}

// Whatever bit of an object is flipped and wherever it is cut: a reader gets the
// bytes that were written, or an error that names the object and the place.
func TestDamagedObject(t *testing.T) {
	const end = 6
	w := newWorld()
	batches := plain(0, end, 40)
	want := map[int64][]byte{}
	for i, b := range batches {
		want[int64(i)] = b
	}
	o := w.add(t, 0, 150, span{part(0), batches, nil, nil, -1})
	key := object.Key(cluster, o.Name)
	good := make([]byte, o.Size)
	if _, err := w.blobs.GetRange(t.Context(), key, 0, good); err != nil {
		t.Fatal(err)
	}
	x, err := LoadIndex(t.Context(), w.blobs, cluster, o)
	if err != nil {
		t.Fatal(err)
	}
	tail := x.Tails[0]
	replace := func(b []byte) {
		t.Helper()
		if err := errors.Join(w.blobs.Delete(t.Context(), key), w.blobs.Put(t.Context(), key, bytes.NewReader(b), int64(len(b)))); err != nil {
			t.Fatal(err)
		}
	}
	// look reads the records and the state, and says what came of both.
	look := func() (records, state error) {
		r := w.reader(Config{ChunkBytes: 1, Ahead: -1})
		records = serve(t, r, want, end)
		_, state = r.State(t.Context(), part(0))
		return records, state
	}
	named := func(err error, place int64) bool {
		return err != nil && strings.Contains(err.Error(), o.Name) && (place < 0 || strings.Contains(err.Error(), fmt.Sprint("at ", place)))
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		replace(b)
		records, state := look()
		at := int64(i)
		switch {
		case at < object.HeaderSize, at >= o.IndexPos+o.IndexLen:
			if records != nil || state != nil {
				t.Fatalf("byte %d, which no reader needs: %v, %v", i, records, state)
			}
		case at >= o.IndexPos:
			if !errors.Is(records, object.ErrCorrupt) || !errors.Is(state, object.ErrCorrupt) || !named(records, -1) || !named(state, -1) {
				t.Fatalf("byte %d, in the index: %v, %v", i, records, state)
			}
		case at >= tail.Pos:
			if records != nil || !errors.Is(state, object.ErrCorrupt) || !named(state, tail.Pos) {
				t.Fatalf("byte %d, in the tail: %v, %v", i, records, state)
			}
		default:
			block := int64(0)
			for _, e := range x.Blocks {
				if e.Pos <= at {
					block = e.Pos
				}
			}
			if !errors.Is(records, object.ErrCorrupt) || !named(records, block) || state != nil {
				t.Fatalf("byte %d, in the block at %d: %v, %v", i, block, records, state)
			}
		}
	}
	for n := range good {
		replace(good[:n])
		records, state := look()
		if int64(n) >= o.IndexPos+o.IndexLen {
			if records != nil || state != nil {
				t.Fatalf("cut to %d bytes, which hold all that is read: %v, %v", n, records, state)
			}
			continue
		}
		for what, err := range map[string]error{"records": records, "state": state} {
			if !errors.Is(err, blob.ErrRange) && !errors.Is(err, io.ErrUnexpectedEOF) || !named(err, -1) {
				t.Fatalf("cut to %d bytes, %s: %v", n, what, err)
			}
		}
	}
}
