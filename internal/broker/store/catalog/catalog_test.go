package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
)

var noRanges = func(context.Context, string, *Object) ([]Range, error) {
	return nil, errors.New("unexpected read of an object")
}

// open opens a catalog and follows it until the test ends.
func open(t *testing.T, store meta.Store) *Catalog {
	t.Helper()
	c, err := Open(context.Background(), store, Config{Ranges: noRanges})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestTopics(t *testing.T) {
	ctx := context.Background()
	store := metamem.New()
	c := open(t, store)
	if len(c.ClusterID()) != 22 {
		t.Errorf("cluster id %q", c.ClusterID())
	}
	many, err := c.CreateTopic(ctx, Topic{Name: "many", Partitions: 500, Config: map[string]string{"retention.ms": "5", "cleanup.policy": "compact,delete"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateTopic(ctx, Topic{Name: "many", Partitions: 1}); !errors.Is(err, ErrTopicExists) {
		t.Errorf("same name: %v", err)
	}
	for _, bad := range []struct {
		topic Topic
		want  error
	}{
		{Topic{Name: "", Partitions: 1}, ErrBadName}, {Topic{Name: "a/b", Partitions: 1}, ErrBadName},
		{Topic{Name: "..", Partitions: 1}, ErrBadName}, {Topic{Name: strings.Repeat("x", 250), Partitions: 1}, ErrBadName},
		{Topic{Name: "a"}, ErrBadPartitions}, {Topic{Name: "a", Partitions: MaxPartitions + 1}, ErrBadPartitions},
		{Topic{Name: "a", Partitions: 1, Config: map[string]string{"nonsense": "1"}}, ErrBadConfig},
		{Topic{Name: "a", Partitions: 1, Config: map[string]string{"retention.ms": "x"}}, ErrBadConfig},
		{Topic{Name: "a", Partitions: 1, Config: map[string]string{"cleanup.policy": "shred"}}, ErrBadConfig},
		{Topic{Name: "a", Partitions: 1, Config: map[string]string{"compression.type": "zstd"}}, ErrBadConfig},
	} {
		if _, err := c.CreateTopic(ctx, bad.topic); !errors.Is(err, bad.want) {
			t.Errorf("%+v: %v", bad.topic, err)
		}
	}
	other := open(t, store) // another reader of the same store
	got, ok := other.Topic("many")
	if diff := cmp.Diff(many, got, cmpopts.IgnoreUnexported(Topic{})); !ok || diff != "" {
		t.Error(diff)
	}
	if s := got.Settings(); s.RetentionMillis != 5 || !s.Compact || !s.Delete || s.MaxMessageBytes != 1048588 || s.TimestampAfterMax != 3600000 {
		t.Errorf("%+v", s)
	}
	if err := c.DeleteTopicID(ctx, many.ID); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Topic("many"); ok {
		t.Error("deleted topic is there")
	}
	again, err := c.CreateTopic(ctx, Topic{Name: "many", Partitions: 1})
	if err != nil || again.ID == many.ID {
		t.Error(again.ID, err)
	}
}

func TestDefinitionsAreSortedAndValid(t *testing.T) {
	all := Definitions()
	defaults := map[string]string{}
	for i, d := range all {
		if i > 0 && all[i-1].Name >= d.Name {
			t.Errorf("%s is out of order", d.Name)
		}
		defaults[d.Name] = d.Default
	}
	if err := CheckConfig(defaults); err != nil {
		t.Error(err)
	}
}

// object returns a set (one range each for partitions) or a single.
func object(name string, single bool, ranges ...Range) NewObject {
	return NewObject{
		Object: &Object{Name: name, Size: 1000, Partitions: int32(len(ranges)), IndexPos: 10, IndexLen: 64, Blocks: 1},
		Ranges: ranges, Single: single,
	}
}

func TestCommitAndFind(t *testing.T) {
	ctx := context.Background()
	store := metamem.New()
	c := open(t, store)
	w, adopted, err := c.Register(ctx, Registration{Kind: FileLog, URI: "file"})
	if err != nil || len(adopted) != 0 || w.Epoch() != 1 {
		t.Fatal(adopted, err)
	}
	topic, err := c.CreateTopic(ctx, Topic{Name: "a", Partitions: 2})
	if err != nil {
		t.Fatal(err)
	}
	p, q := Partition{topic.ID, 0}, Partition{topic.ID, 1}
	commit := func(lsn int64, objects ...NewObject) {
		t.Helper()
		if err := w.Commit(ctx, Commit{Epoch: 1, LSN: lsn, Objects: objects}); err != nil {
			t.Fatal(err)
		}
	}
	commit(5, object("s1", false, Range{Partition: p, Base: 0, End: 10}, Range{Partition: q, Base: 0, End: 4}))
	commit(9, object("o1", true, Range{Partition: p, Base: 12, End: 20, MaxTimestamp: 7, Bytes: 3})) // a hole before it
	for offset, want := range map[int64]string{0: "s1", 9: "s1", 10: "o1", 12: "o1", 19: "o1", 20: ""} {
		x, ok := c.Find(p, offset)
		if ok != (want != "") || ok && x.Object.Name != want {
			t.Errorf("offset %d: %+v", offset, x)
		}
	}
	if w.Committed(1) != 9 {
		t.Error(w.Committed(1))
	}
	// A second epoch seals the first and learns how far it came.
	w2, adopted, err := c.Register(ctx, Registration{Kind: FileLog, URI: "file"})
	if diff := cmp.Diff([]Adopted{{Log: LogID{0, 1}, Kind: FileLog, URI: "file", Committed: 9}}, adopted); err != nil || diff != "" {
		t.Fatal(diff, err)
	}
	for what, err := range map[string]error{
		"commit":    w.Commit(ctx, Commit{Epoch: 1, LSN: 10, Objects: []NewObject{object("late", false, Range{Partition: p, Base: 20, End: 30})}}),
		"retire":    w.Retire(ctx, c.Visible()[:1], 0),
		"log start": func() error { _, err := w.SetLogStart(ctx, p, 5); return err }(),
	} {
		if !errors.Is(err, ErrFenced) {
			t.Errorf("%s of the sealed epoch: %v", what, err)
		}
	}
	if _, ok := c.Find(p, 20); ok {
		t.Error("a fenced commit is visible")
	}
	// The new epoch commits what it adopted, and closes the old log.
	if err := w2.Commit(ctx, Commit{Epoch: 1, LSN: 10, Done: true, Objects: []NewObject{object("r1", false, Range{Partition: p, Base: 20, End: 30})}}); err != nil {
		t.Fatal(err)
	}
	if x, ok := c.Find(p, 25); !ok || x.Object.Name != "r1" {
		t.Errorf("%+v", x)
	}
	if _, adopted, err = c.Register(ctx, Registration{Kind: FileLog, URI: "file"}); err != nil || len(adopted) != 1 || adopted[0] != (Adopted{Log: LogID{0, 2}, Kind: FileLog, URI: "file"}) {
		t.Errorf("%+v %v", adopted, err)
	}
}

// The commit of a single-partition object whose topic has gone goes on without it.
func TestCommitOfDeletedTopic(t *testing.T) {
	ctx := context.Background()
	c := open(t, metamem.New())
	w, _, err := c.Register(ctx, Registration{Kind: FileLog, URI: "file"})
	if err != nil {
		t.Fatal(err)
	}
	keep, _ := c.CreateTopic(ctx, Topic{Name: "keep", Partitions: 1})
	gone, _ := c.CreateTopic(ctx, Topic{Name: "gone", Partitions: 1})
	if err := c.DeleteTopic(ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	err = w.Commit(ctx, Commit{Epoch: 1, LSN: 1, Objects: []NewObject{
		object("a", true, Range{Partition: Partition{gone.ID, 0}, End: 5}), object("b", true, Range{Partition: Partition{keep.ID, 0}, End: 5}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Find(Partition{keep.ID, 0}, 0); !ok {
		t.Error("the other object is missing")
	}
	garbage, err := c.Garbage(ctx, 1<<62, 10)
	if err != nil || len(garbage) != 1 || garbage[0].Object != "a" {
		t.Errorf("%+v %v", garbage, err)
	}
}

func TestDeadKeepsProducerState(t *testing.T) {
	ctx := context.Background()
	c := open(t, metamem.New())
	w, _, err := c.Register(ctx, Registration{Kind: FileLog, URI: "file"})
	if err != nil {
		t.Fatal(err)
	}
	topic, _ := c.CreateTopic(ctx, Topic{Name: "a", Partitions: 1})
	p := Partition{topic.ID, 0}
	for i, depth := range []uint8{0, 1, 0, 1, 2} {
		o := object(fmt.Sprint("s", i), false, Range{Partition: p, Base: int64(i) * 10, End: int64(i)*10 + 10, TailDepth: depth})
		if err := w.Commit(ctx, Commit{Epoch: 1, LSN: int64(i + 1), Objects: []NewObject{o}}); err != nil {
			t.Fatal(err)
		}
	}
	if start, err := w.SetLogStart(ctx, p, 50); err != nil || start != 50 {
		t.Fatal(start, err)
	}
	if start, err := w.SetLogStart(ctx, p, 30); err != nil || start != 50 {
		t.Errorf("log start went down: %d %v", start, err)
	}
	var names []string
	for _, v := range c.Unneeded() {
		names = append(names, v.Object.Name)
	}
	if diff := cmp.Diff([]string{"s0", "s1"}, names); diff != "" {
		t.Error(diff) // s2 is the full snapshot that s4's state builds on
	}
}

// A watch that falls behind ends in one full read, not in a stale index.
func TestWatchCompacted(t *testing.T) {
	ctx := context.Background()
	store := metamem.New()
	c := open(t, store)
	writer, err := Open(ctx, store, Config{Ranges: noRanges}) // not running: reads itself
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		topic, err := writer.CreateTopic(ctx, Topic{Name: fmt.Sprint("t", i), Partitions: 1})
		if err != nil {
			t.Fatal(err)
		}
		store.Compact()
		if _, ok := writer.TopicByID(topic.ID); !ok {
			t.Fatal("own write is not visible")
		}
		if err := c.wait(ctx, writer.rev); err != nil {
			t.Fatal(err)
		}
		if _, ok := c.TopicByID(topic.ID); !ok {
			t.Fatalf("topic %d is not visible", i)
		}
	}
}

func TestHigherGenerationWins(t *testing.T) {
	ix := newIndex()
	p := Partition{TopicID{1}, 0}
	put := func(name string, generation int32, base, end int64) {
		if _, _, err := ix.apply(change{key: setKey(name), object: &Object{Name: name, Generation: generation}, ranges: []Range{{Partition: p, Base: base, End: end}}}); err != nil {
			t.Fatal(err)
		}
	}
	names := func() (all []string) {
		for _, x := range ix.shown(p) {
			all = append(all, x.Object.Name)
		}
		return all
	}
	put("a", 0, 0, 10)
	put("b", 0, 10, 20)
	put("c", 0, 20, 30)
	put("merged", 1, 0, 20)
	if diff := cmp.Diff([]string{"merged", "c"}, names()); diff != "" {
		t.Error(diff)
	}
	put("again", 0, 5, 10) // a copy of what is merged
	for _, gone := range []string{"a", "b"} {
		if _, _, err := ix.apply(change{key: setKey(gone), gone: true}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"merged", "c"}, names()); diff != "" {
		t.Error(diff)
	}
}
