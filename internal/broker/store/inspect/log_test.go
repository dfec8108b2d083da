package inspect

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/disk/diskmem"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// The files of a log are read when no server has them open: their records are
// counted, and a flipped bit is found where it is.
func TestVerifyLog(t *testing.T) {
	w := newWorld(t)
	w.fill()
	files := diskmem.New(512)
	verify := func() *Report {
		t.Helper()
		r, err := w.source().Verify(t.Context(), VerifyConfig{Files: files, LogDir: "/wal"})
		w.check(err)
		return r
	}
	log, err := wal.Open(t.Context(), files, "/wal", wal.Identity{WALID: wal.IDOf(w.catalog.ClusterID(), 1), Epoch: 1}, wal.Config{SegmentBytes: 64 << 10, MaxBatch: 8 << 10}, nil)
	w.check(err)
	for i := range 3 {
		_, err := log.Append(&wal.Record{Data: [2][]byte{fmt.Appendf(nil, "record %d", i)}})
		w.check(err)
	}
	if r := verify(); r.LogUnread == "" || len(r.Damages) > 0 {
		t.Errorf("of a running server: %+v", r)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop() // commits what there is, and closes
	w.check(errors.Join(log.Run(ctx), log.Close()))
	if r := verify(); r.LogRecords != 3 || r.LogUnread != "" || len(r.Damages) > 0 {
		t.Errorf("as it was written: %+v", r)
	}
	all, err := files.ReadDir("/wal")
	w.check(err)
	for _, e := range all {
		if !strings.HasSuffix(e.Name, "-0000000001.wal") {
			continue
		}
		f, err := files.OpenFile("/wal/"+e.Name, disk.Mode{Write: true})
		w.check(err)
		b := make([]byte, 1)
		_, err = f.ReadAt(b, 100)
		w.check(err)
		b[0] ^= 1
		_, err = f.WriteAt(b, 100)
		w.check(errors.Join(err, f.Close()))
	}
	if r := verify(); len(r.Damages) != 1 || !strings.HasSuffix(r.Damages[0].Key, "-0000000001.wal") {
		t.Errorf("with a flipped bit: %+v", r)
	}
}
