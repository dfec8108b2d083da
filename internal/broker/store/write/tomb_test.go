package write

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/broker/store/catalog"
)

func TestTombs(t *testing.T) {
	w := newWorld(t, 1)
	id := w.topic("a", 2, nil)
	gone := catalog.TopicID{9}
	put := func(key string) {
		t.Helper()
		if err := w.blobs.Put(context.Background(), key, strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
	}
	cluster := w.c.ClusterID()
	var want []string
	for _, x := range []struct {
		t    TrimTomb
		stay bool
	}{
		{TrimTomb{catalog.Partition{Topic: id}, 5}, false},
		{TrimTomb{catalog.Partition{Topic: id}, 1 << 40}, true},
		{TrimTomb{catalog.Partition{Topic: id, Index: 1}, 3}, true},
		{TrimTomb{catalog.Partition{Topic: gone}, 3}, false},
		{TrimTomb{catalog.Partition{Topic: catalog.TopicID{8}}, 3}, true}, // no tomb says that the topic was deleted
	} {
		key := x.t.Key(cluster)
		put(key)
		if got, ok := ParseTrimTomb(strings.TrimPrefix(key, TombPrefix(cluster))); !ok || got != x.t {
			t.Errorf("%s is %+v, %t", key, got, ok)
		}
		if x.stay {
			want = append(want, key)
		}
	}
	put(TombPrefix(cluster) + gone.String())
	want = append(want, TombPrefix(cluster)+gone.String())
	w.rounds(w.jobs.Sweep)
	got := map[string]bool{}
	for _, key := range w.blobs.Keys() {
		if strings.HasPrefix(key, "tomb/") {
			got[key] = true
		}
	}
	all := map[string]bool{}
	for _, key := range want {
		all[key] = true
	}
	if diff := cmp.Diff(all, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "x", gone.String(), gone.String() + "-1", gone.String() + "-1-5", gone.String() + "-01-00000000000000000005", "zz-1-00000000000000000005"} {
		if x, ok := ParseTrimTomb(bad); ok {
			t.Errorf("%q is %+v", bad, x)
		}
	}
	w.stop()
}
