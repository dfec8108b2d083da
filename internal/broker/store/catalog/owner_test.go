package catalog

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
)

// node is one broker's view of a shared store.
type node struct {
	*Catalog
	w       *Writer
	adopted []Adopted
	lease   meta.LeaseID
}

// join registers a broker under a lease that lives until the test expires it.
func join(t *testing.T, store *metamem.Store, broker int32, kind LogKind) *node {
	t.Helper()
	n, err := tryJoin(t, store, broker, kind, fmt.Sprintf("host%d:9092", broker))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func tryJoin(t *testing.T, store *metamem.Store, broker int32, kind LogKind, address string) (*node, error) {
	t.Helper()
	n := &node{Catalog: open(t, store)}
	var err error
	if n.lease, err = store.Grant(context.Background(), time.Hour); err != nil {
		t.Fatal(err)
	}
	n.w, n.adopted, err = n.Register(context.Background(), Registration{Broker: broker, Kind: kind, URI: "u", Lease: n.lease, Address: address})
	return n, err
}

// catchUp waits until the node's index has seen everything.
func (n *node) catchUp(t *testing.T) {
	t.Helper()
	if err := n.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func clusterStore(t *testing.T) *metamem.Store {
	store := metamem.NewAt(time.Now) // leases end when the test says so
	t.Cleanup(func() { store.Close() })
	return store
}

func TestBrokersComeAndGo(t *testing.T) {
	ctx := context.Background()
	store := clusterStore(t)
	a := join(t, store, 1, ObjectLog)
	b := join(t, store, 2, ObjectLog)
	a.catchUp(t)
	if diff := cmp.Diff([]Broker{{ID: 1, Epoch: 1, Address: "host1:9092"}, {ID: 2, Epoch: 1, Address: "host2:9092"}}, a.Brokers()); diff != "" {
		t.Error(diff)
	}
	// The id of a live broker is not for another.
	if _, err := tryJoin(t, store, 1, ObjectLog, "elsewhere:9092"); !errors.Is(err, ErrTaken) {
		t.Errorf("same id: %v", err)
	}
	// The same broker again has the port, so the old process is gone.
	again := join(t, store, 1, ObjectLog)
	if again.w.Epoch() != 2 || len(again.adopted) != 1 || again.adopted[0].Log != (LogID{1, 1}) {
		t.Errorf("%+v", again.adopted)
	}
	a.catchUp(t)
	if by, sealed := a.SealedBy(LogID{1, 1}); !sealed || by != (LogID{1, 2}) {
		t.Error(by, sealed)
	}
	if err := a.w.StillMine(ctx); !errors.Is(err, ErrFenced) {
		t.Errorf("still mine: %v", err)
	}
	if err := a.w.Renew(ctx, Registration{Lease: a.lease, Address: "x:1"}); !errors.Is(err, ErrFenced) {
		t.Errorf("renew: %v", err)
	}
	if _, err := a.w.Campaign(ctx, a.lease); !errors.Is(err, ErrFenced) {
		t.Errorf("campaign: %v", err)
	}
	if dead := b.DeadBrokers(); len(dead) != 0 {
		t.Errorf("dead: %+v", dead)
	}
	store.Expire(again.lease)
	b.catchUp(t)
	if diff := cmp.Diff([]DeadBroker{{Broker: 1, Epochs: []int64{1, 2}}}, b.DeadBrokers()); diff != "" {
		t.Error(diff)
	}
}

// From the death of a broker to its partitions' next leader, step by step.
func TestSealRecoverAssign(t *testing.T) {
	ctx := context.Background()
	store := clusterStore(t)
	a := join(t, store, 1, ObjectLog)
	b := join(t, store, 2, ObjectLog)
	topic, err := a.CreateTopic(ctx, Topic{Name: "many", Partitions: 130})
	if err != nil {
		t.Fatal(err)
	}
	p := Partition{topic.ID, 0}
	b.catchUp(t)
	if !a.Owns(p) || b.Owns(p) || len(a.Owned()) != 130 {
		t.Error("before: the wrong owner")
	}
	k, err := b.w.Campaign(ctx, b.lease)
	if err != nil || k == nil {
		t.Fatal(k, err)
	}
	if other, err := a.w.Campaign(ctx, a.lease); err != nil || other != nil {
		t.Error("two controllers", err)
	}
	b.catchUp(t)
	if b.Controller() != (LogID{2, 1}) {
		t.Error(b.Controller())
	}
	// Nobody seals who lives.
	if ok, err := k.Seal(ctx, DeadBroker{Broker: 1, Epochs: []int64{1}}, b.w.ID()); ok || err != nil {
		t.Error("a live broker was sealed", err)
	}
	store.Expire(a.lease)
	b.catchUp(t)
	if leader, _, serves := b.Leader(p); leader != 2 || serves {
		t.Error("the next leader is not named:", leader, serves)
	}
	if len(b.Orphans()) != 0 {
		t.Error("orphans before the seal")
	}
	dead := b.DeadBrokers()
	if len(dead) != 1 || dead[0].Stuck {
		t.Fatalf("%+v", dead)
	}
	if ok, err := k.Seal(ctx, dead[0], b.w.ID()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := a.w.Commit(ctx, Commit{Epoch: 1, LSN: 5}); !errors.Is(err, ErrFenced) {
		t.Errorf("commit of the sealed: %v", err)
	}
	if diff := cmp.Diff([]int32{1}, b.Recovering()); diff != "" || len(b.Orphans()) != 0 {
		t.Error(diff, "or orphans before the recovery")
	}
	// The broker comes back and has to wait.
	if _, err := tryJoin(t, store, 1, ObjectLog, "host1:9092"); !errors.Is(err, ErrRecovering) {
		t.Errorf("back too early: %v", err)
	}
	logs, err := b.w.Recover(ctx, 1)
	if diff := cmp.Diff([]Adopted{{Log: LogID{1, 1}, Kind: ObjectLog, URI: "u"}}, logs); err != nil || diff != "" {
		t.Fatal(diff, err)
	}
	// The end is written once: the second says what the first did.
	for _, slot := range []int64{7, 9} {
		if end, err := b.w.EndLog(ctx, LogID{1, 1}, slot); end != 7 || err != nil {
			t.Errorf("end %d, %v", end, err)
		}
	}
	if logs, err := b.w.Recover(ctx, 1); err != nil || logs[0].End != 7 {
		t.Errorf("%+v %v", logs, err)
	}
	damaged := Partition{topic.ID, 129}
	if err := b.w.Quarantine(ctx, LogID{1, 1}, damaged, "a gap"); err != nil {
		t.Fatal(err)
	}
	if err := b.w.Commit(ctx, Commit{Of: LogID{1, 1}, LSN: 5, Slot: 3, Done: true}); err != nil {
		t.Fatal(err)
	}
	orphans := b.Orphans()
	if len(orphans) != 129 || orphans[0].By != b.w.ID() || len(b.Recovering()) != 0 {
		t.Fatalf("%d orphans, %+v", len(orphans), orphans[0])
	}
	var all []Partition
	for _, o := range orphans {
		all = append(all, o.Partition)
	}
	largest := 0
	store.SetFault(func(c metamem.Call) metamem.Fault {
		if c.Txn != nil {
			largest = max(largest, len(c.Txn.Then))
		}
		return metamem.Fault{}
	})
	if ok, err := k.Assign(ctx, all, b.w.ID()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	store.SetFault(nil)
	if largest > 50 {
		t.Errorf("%d partitions in one transaction", largest)
	}
	if leader, epoch, serves := b.Leader(p); leader != 2 || epoch != 1 || !serves || !b.Owns(p) || len(b.Owned()) != 129 {
		t.Error(leader, epoch, serves, len(b.Owned()))
	}
	if leader, _, _ := b.Leader(damaged); leader != -1 || b.Owns(damaged) || b.Quarantined()[damaged] != "a gap" {
		t.Error("a damaged partition is led by", leader)
	}
	// An operator decides.
	if err := b.Release(ctx, damaged); err != nil || len(b.Orphans()) != 1 {
		t.Error(err, b.Orphans())
	}
	back := join(t, store, 1, ObjectLog)
	if back.w.Epoch() != 2 || len(back.adopted) != 0 || back.Owns(p) {
		t.Errorf("back: %+v", back.adopted)
	}
	// Another controller; the old one can do nothing.
	store.Expire(b.lease)
	back.catchUp(t)
	if k2, err := back.w.Campaign(ctx, back.lease); err != nil || k2 == nil {
		t.Fatal(err)
	}
	if _, err := k.Assign(ctx, all[:1], b.w.ID()); !errors.Is(err, ErrDeposed) {
		t.Errorf("assign by the old controller: %v", err)
	}
}

// A partition waits for every log that its old broker could have written it to.
func TestOrphansWaitForAllLogs(t *testing.T) {
	ctx := context.Background()
	store := clusterStore(t)
	a := join(t, store, 1, ObjectLog)
	topic, err := a.CreateTopic(ctx, Topic{Name: "t", Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	a = join(t, store, 1, ObjectLog) // in place: it goes on leading
	if !a.Owns(Partition{topic.ID, 0}) {
		t.Fatal("lost by a restart in place")
	}
	b := join(t, store, 2, ObjectLog)
	k, err := b.w.Campaign(ctx, b.lease)
	if err != nil {
		t.Fatal(err)
	}
	store.Expire(a.lease)
	b.catchUp(t)
	if ok, err := k.Seal(ctx, b.DeadBrokers()[0], b.w.ID()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	logs, err := b.w.Recover(ctx, 1)
	if err != nil || len(logs) != 2 || logs[0].Log.Epoch != 1 {
		t.Fatal(logs, err)
	}
	for i, l := range logs {
		if n := len(b.Orphans()); n != 0 {
			t.Errorf("%d orphans after %d of %d logs", n, i, len(logs))
		}
		if err := b.w.Commit(ctx, Commit{Of: l.Log, Done: true}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.Orphans()); n != 1 {
		t.Errorf("%d orphans in the end", n)
	}
}

// A recoverer that dies is replaced; nothing it still tries is committed. A log
// in files is only for its own broker.
func TestRecovererIsReplaced(t *testing.T) {
	ctx := context.Background()
	store := clusterStore(t)
	a := join(t, store, 1, ObjectLog)
	b := join(t, store, 2, ObjectLog)
	c := join(t, store, 3, ObjectLog)
	f := join(t, store, 4, FileLog)
	k, err := b.w.Campaign(ctx, b.lease)
	if err != nil {
		t.Fatal(err)
	}
	store.Expire(a.lease)
	b.catchUp(t)
	if ok, err := k.Seal(ctx, b.DeadBrokers()[0], b.w.ID()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := b.w.Recover(ctx, 1); err != nil {
		t.Fatal(err)
	}
	store.Expire(b.lease)
	store.Expire(f.lease)
	c.catchUp(t)
	dead := c.DeadBrokers()
	want := []DeadBroker{{Broker: 1, Epochs: []int64{1}}, {Broker: 2, Epochs: []int64{1}}, {Broker: 4, Epochs: []int64{1}, Stuck: true}}
	if diff := cmp.Diff(want, dead); diff != "" {
		t.Fatal(diff)
	}
	if k, err = c.w.Campaign(ctx, c.lease); err != nil {
		t.Fatal(err)
	}
	if ok, err := k.Seal(ctx, dead[0], c.w.ID()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	// The dead recoverer itself is not sealed yet; the log it had is not its own.
	for what, err := range map[string]error{
		"commit":     b.w.Commit(ctx, Commit{Of: LogID{1, 1}, LSN: 1, Done: true}),
		"quarantine": b.w.Quarantine(ctx, LogID{1, 1}, Partition{}, "x"),
		"end":        func() error { _, err := b.w.EndLog(ctx, LogID{1, 1}, 4); return err }(),
	} {
		if !errors.Is(err, ErrFenced) {
			t.Errorf("%s by the dead recoverer: %v", what, err)
		}
	}
	if ok, err := k.Seal(ctx, dead[1], c.w.ID()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if diff := cmp.Diff([]int32{1, 2}, c.Recovering()); diff != "" {
		t.Error(diff)
	}
}

// What another broker recovered is not led again by an epoch of the old one, even
// if its number is that of the recoverer.
func TestOwnersAreNotMixedUp(t *testing.T) {
	ctx := context.Background()
	store := clusterStore(t)
	a := join(t, store, 1, ObjectLog)
	topic, err := a.CreateTopic(ctx, Topic{Name: "t", Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	p := Partition{topic.ID, 0}
	join(t, store, 2, ObjectLog)
	b := join(t, store, 2, ObjectLog) // epoch 2
	k, err := b.w.Campaign(ctx, b.lease)
	if err != nil {
		t.Fatal(err)
	}
	store.Expire(a.lease)
	b.catchUp(t)
	for _, d := range b.DeadBrokers() {
		if ok, err := k.Seal(ctx, d, b.w.ID()); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if _, err := b.w.Recover(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := b.w.Commit(ctx, Commit{Of: LogID{1, 1}, Done: true}); err != nil {
		t.Fatal(err)
	}
	back := join(t, store, 1, ObjectLog) // epoch 2 as well
	if back.w.Epoch() != 2 || back.Owns(p) {
		t.Error("the old broker leads what was recovered from it, epoch", back.w.Epoch())
	}
	if leader, _, serves := back.Leader(p); leader != 2 || serves {
		t.Error(leader, serves)
	}
	if o := b.Orphans(); len(o) != 1 || o[0].By != b.w.ID() {
		t.Errorf("%+v", o)
	}
}

// Crashes in a row: more epochs than one transaction seals.
func TestRegisterSealsManyEpochs(t *testing.T) {
	store := clusterStore(t)
	var n *node
	for range 3*maxSealed + 2 {
		n = join(t, store, 1, ObjectLog)
	}
	if len(n.adopted) != 3*maxSealed+1 {
		t.Errorf("%d adopted", len(n.adopted))
	}
	if dead := n.DeadBrokers(); len(dead) != 0 {
		t.Errorf("dead: %+v", dead)
	}
}
