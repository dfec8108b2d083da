package stream

import (
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A processor that is put out of its group, or can't get in for a while, comes
// back by itself: a broker that is away must not end the program.
func TestProcessorOutlivesItsGroupSession(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	c := dial(t, k.ListenAddrs())
	ensure(t, c, 4, "in.a", "in.b", "out")
	var refused atomic.Int64
	k.ControlKey(kmsg.JoinGroup.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if refused.Add(1) > 2 {
			return nil, nil, false
		}
		k.KeepControl()
		resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
		resp.ErrorCode = kerr.UnknownServerError.Code
		return resp, nil, true
	})
	want := feed(t, c, 200, 1)
	if err := process(t, c, tallying(t.TempDir())); err != nil {
		t.Fatal(err)
	}
	if refused.Load() < 3 {
		t.Errorf("the group was asked %d times only", refused.Load())
	}
	if diff := cmp.Diff(want, outcome(t, c, "out")); diff != "" {
		t.Error(diff)
	}
}

func TestInstanceOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for range 2 {
		s, err := openStore(dir, 1<<20, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		name, err := s.instance()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
	if names[0] == "" || names[0] != names[1] {
		t.Errorf("instance %q, then %q", names[0], names[1])
	}
}
