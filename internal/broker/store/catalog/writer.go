package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/looptape/looptape/internal/base/meta"
)

var (
	// ErrTaken says that a live broker with another address has this broker's id.
	ErrTaken = errors.New("broker id is taken")
	// ErrRecovering says that another broker recovers this broker's log; it can
	// register when that is done.
	ErrRecovering = errors.New("another broker recovers the log")
)

// Writer is one epoch of one broker: the right to commit until it is fenced.
// Commits to one log come from one goroutine at a time, the other methods from
// any.
type Writer struct {
	c        *Catalog
	broker   int32
	epoch    int64
	fenceRev int64

	mu   sync.Mutex
	logs map[LogID]*logState // own, adopted, and of other brokers while they are recovered
}

// logState is what a commit compares for the log of one epoch.
type logState struct {
	fenceRev  int64
	walRev    int64
	kind      LogKind
	uri       string
	committed int64
	slot      int64
}

// Adopted is a sealed epoch whose log may still hold records above Committed.
type Adopted struct {
	Log       LogID
	Kind      LogKind
	URI       string
	Committed int64 // LSN
	Slot      int64 // of a log of slots: the last one at or below Committed
	End       int64 // of a log of slots: the one that ends it (P2); 0 not yet known
	Closed    bool  // its broker stopped with everything committed
}

// Registration is what a broker says of itself.
type Registration struct {
	Broker int32
	Kind   LogKind
	URI    string // of the log, for people and tools
	// Lease, if there are other brokers, keeps this one's live key, which has
	// Address and Rack.
	Lease   meta.LeaseID
	Address string // host:port for clients
	Rack    string
}

// maxSealed bounds the epochs sealed together with a registration.
const maxSealed = 20

// Register takes the broker's next epoch (P3): in one transaction it seals the
// earlier ones that are not done, so that nothing they still try can be
// committed, and creates its own fence, log record and live key. What it adopts
// is returned by epoch. Without a lease the caller must hold the lock of the
// broker's data directory. ErrRecovering and ErrTaken pass with time.
func (c *Catalog) Register(ctx context.Context, r Registration) (*Writer, []Adopted, error) {
	for {
		w := &Writer{c: c, broker: r.Broker, logs: map[LogID]*logState{}}
		adopted, ok, err := w.register(ctx, r)
		if err != nil {
			return nil, nil, fmt.Errorf("register broker %d: %w", r.Broker, err)
		}
		if !ok {
			continue
		}
		c.mu.Lock()
		c.leader = part{Leader: r.Broker, BrokerEpoch: w.epoch}
		c.mu.Unlock()
		// What this broker leads shows from here on.
		if err := c.refresh(ctx); err != nil {
			return nil, nil, fmt.Errorf("register broker %d: %w", r.Broker, err)
		}
		return w, adopted, nil
	}
}

// sealable is an epoch to be taken over.
type sealable struct {
	log    LogID
	modRev int64
}

func (w *Writer) register(ctx context.Context, r Registration) (adopted []Adopted, ok bool, err error) {
	olds, newest, err := w.earlier(ctx)
	if err != nil {
		return nil, false, err
	}
	w.epoch = newest + 1
	live, liveRev, err := w.readLive(ctx)
	if err != nil {
		return nil, false, err
	}
	if r.Lease != 0 && liveRev != 0 && live.Address != r.Address {
		return nil, false, fmt.Errorf("%w: it runs at %s", ErrTaken, live.Address)
	}
	sealed := encodeFence(fence{State: fenceSealed, By: w.broker, ByEpoch: w.epoch})
	// Crashes in a row leave few epochs behind; very many are sealed ahead.
	for len(olds) > maxSealed {
		o := olds[0]
		res, err := w.c.txn(ctx, meta.Txn{
			If: []meta.Cmp{meta.ModRevIs(o.key(), o.modRev)}, Then: []meta.Op{meta.Put(o.key(), sealed)}, ElseGet: []string{o.key()},
		})
		if err != nil {
			return nil, false, fmt.Errorf("seal epoch %d: %w", o.log.Epoch, err)
		}
		rev, mine := outcome(res, o.key(), sealed)
		if !mine {
			return nil, false, nil // changed under us: look again
		}
		w.logs[o.log] = &logState{fenceRev: rev}
		olds = olds[1:]
	}
	id := LogID{w.broker, w.epoch}
	fkey, wkey := fenceKey(w.broker, w.epoch), walKey(w.broker, w.epoch)
	active := encodeFence(fence{State: fenceActive, By: w.broker, ByEpoch: w.epoch})
	t := meta.Txn{
		If: []meta.Cmp{meta.Absent(fkey)},
		Then: []meta.Op{
			meta.Put(fkey, active), meta.Put(wkey, encodeWAL(walRecord{Kind: r.Kind, URI: r.URI})),
		},
		ElseGet: []string{fkey},
	}
	for _, o := range olds {
		t.If = append(t.If, meta.ModRevIs(o.key(), o.modRev))
		t.Then = append(t.Then, meta.Put(o.key(), sealed))
	}
	for l, s := range w.logs { // sealed ahead
		t.If = append(t.If, meta.ModRevIs(fenceKey(l.Broker, l.Epoch), s.fenceRev))
	}
	if r.Lease != 0 {
		t.If = append(t.If, meta.ModRevIs(liveKey(w.broker), liveRev))
		t.Then = append(t.Then, meta.Put(liveKey(w.broker), encodeLive(Broker{
			Epoch: w.epoch, Address: r.Address, Rack: r.Rack,
		})).WithLease(r.Lease))
	}
	res, err := w.c.txn(ctx, t)
	if err != nil {
		return nil, false, fmt.Errorf("create epoch %d: %w", w.epoch, err)
	}
	rev, mine := outcome(res, fkey, active)
	if !mine {
		return nil, false, nil
	}
	// True now: no earlier epoch of this broker can commit, and this one can.
	w.fenceRev = rev
	w.logs[id] = &logState{fenceRev: rev, walRev: rev, kind: r.Kind, uri: r.URI}
	for _, o := range olds {
		w.logs[o.log] = &logState{fenceRev: rev}
	}
	adopted, err = w.readLogs(ctx)
	return adopted, true, err
}

func (s sealable) key() string { return fenceKey(s.log.Broker, s.log.Epoch) }

// earlier lists the broker's epochs that are not done, oldest first.
func (w *Writer) earlier(ctx context.Context) (olds []sealable, newest int64, err error) {
	prefix := fmt.Sprintf("%s%d/", prefixFence, w.broker)
	_, err = w.c.store.Scan(ctx, prefix, func(kv meta.KV) error {
		log, ok := parseLog(kv.Key[len(prefixFence):])
		if !ok {
			return fmt.Errorf("%w: key %q", ErrCorrupt, kv.Key)
		}
		f, err := decodeFence(kv.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", kv.Key, err)
		}
		newest = max(newest, log.Epoch)
		switch {
		case f.State == fenceDone:
		case f.State == fenceSealed && f.By != w.broker:
			return fmt.Errorf("%w: broker %d that of epoch %d", ErrRecovering, f.By, log.Epoch)
		default:
			olds = append(olds, sealable{log, kv.ModRev})
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read fences: %w", err)
	}
	return olds, newest, nil
}

func (w *Writer) readLive(ctx context.Context) (b Broker, modRev int64, err error) {
	key := liveKey(w.broker)
	found, _, err := w.c.store.Get(ctx, key)
	if err != nil {
		return b, 0, fmt.Errorf("read live key: %w", err)
	}
	kv, ok := found[key]
	if !ok {
		return b, 0, nil
	}
	if b, err = decodeLive(kv.Value); err != nil {
		return b, 0, fmt.Errorf("%s: %w", key, err)
	}
	return b, kv.ModRev, nil
}

// readLogs reads what is committed of the sealed epochs. It is read after the
// seals, so it stays as it is until this writer changes it.
func (w *Writer) readLogs(ctx context.Context) (all []Adopted, err error) {
	for log, s := range w.logs {
		if log == (LogID{w.broker, w.epoch}) {
			continue
		}
		a, err := w.readLog(ctx, log, s)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b Adopted) int { return int(max(-1, min(1, a.Log.Epoch-b.Log.Epoch))) })
	return all, nil
}

func (w *Writer) readLog(ctx context.Context, log LogID, s *logState) (a Adopted, err error) {
	key, end := walKey(log.Broker, log.Epoch), walEndKey(log)
	found, _, err := w.c.store.Get(ctx, key, end)
	if err != nil {
		return a, fmt.Errorf("read log record of epoch %s: %w", log, err)
	}
	rec, err := decodeWAL(found[key].Value)
	if err != nil {
		return a, fmt.Errorf("log record of epoch %s: %w", log, err)
	}
	s.walRev, s.kind, s.uri, s.committed, s.slot = found[key].ModRev, rec.Kind, rec.URI, rec.Committed, rec.Slot
	a = Adopted{Log: log, Kind: rec.Kind, URI: rec.URI, Committed: rec.Committed, Slot: rec.Slot, Closed: rec.Done}
	if kv, ok := found[end]; ok {
		if a.End, err = decodeInt("end of log", kv.Value); err != nil {
			return a, fmt.Errorf("%s: %w", end, err)
		}
	}
	return a, nil
}

// outcome says whether the key now has the value that a transaction wanted to
// put, by this attempt or an earlier identical one, and since which revision.
func outcome(res meta.TxnResult, key string, value []byte) (rev int64, mine bool) {
	if res.OK {
		return res.Rev, true
	}
	for _, kv := range res.Else {
		if kv.Key == key && bytes.Equal(kv.Value, value) {
			return kv.ModRev, true
		}
	}
	return 0, false
}

// Epoch is this writer's epoch, 1 or above.
func (w *Writer) Epoch() int64 { return w.epoch }

// Broker is the broker's id.
func (w *Writer) Broker() int32 { return w.broker }

// ID is both.
func (w *Writer) ID() LogID { return LogID{w.broker, w.epoch} }

func (w *Writer) fenceKey() string { return fenceKey(w.broker, w.epoch) }

// active is the comparison every transaction of a writer starts with.
func (w *Writer) active() meta.Cmp { return meta.ModRevIs(w.fenceKey(), w.fenceRev) }

// fenced says whether the fence among kvs is no longer the one this writer made.
func (w *Writer) fenced(kvs []meta.KV) bool {
	for _, kv := range kvs {
		if kv.Key == w.fenceKey() {
			return kv.ModRev != w.fenceRev
		}
	}
	return true
}

// StillMine reads whether this epoch may still commit: nil or ErrFenced. It is
// the reservation check of a log whose store has no conditional puts (P11).
func (w *Writer) StillMine(ctx context.Context) error {
	found, _, err := w.c.store.Get(ctx, w.fenceKey())
	if err != nil {
		return fmt.Errorf("read fence of epoch %d: %w", w.epoch, err)
	}
	if found[w.fenceKey()].ModRev != w.fenceRev {
		return fmt.Errorf("epoch %d: %w", w.epoch, ErrFenced)
	}
	return nil
}

// Renew puts the broker's live key anew under another lease, after the one of
// Registration is gone. ErrFenced when somebody took over meanwhile.
func (w *Writer) Renew(ctx context.Context, r Registration) error {
	res, err := w.c.txn(ctx, meta.Txn{
		If: []meta.Cmp{w.active()},
		Then: []meta.Op{meta.Put(liveKey(w.broker), encodeLive(Broker{
			Epoch: w.epoch, Address: r.Address, Rack: r.Rack,
		})).WithLease(r.Lease)},
	})
	if err == nil && !res.OK {
		err = ErrFenced
	}
	if err != nil {
		return fmt.Errorf("renew live key of broker %d: %w", w.broker, err)
	}
	return nil
}

// Committed is the last committed LSN of an own epoch's log.
func (w *Writer) Committed(epoch int64) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s, ok := w.logs[LogID{w.broker, epoch}]; ok {
		return s.committed
	}
	return 0
}

// Adopts says whether the epoch is an earlier one of the broker that is not done.
func (w *Writer) Adopts(epoch int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.logs[LogID{w.broker, epoch}]
	return ok && epoch != w.epoch
}

// Finish marks an adopted epoch as done whose log holds nothing above its
// committed LSN. Of the writer's own epoch it says the same, when the broker stops:
// there is nothing to recover then.
func (w *Writer) Finish(ctx context.Context, epoch int64) error {
	return w.Commit(ctx, Commit{Epoch: epoch, LSN: w.Committed(epoch), Done: true})
}
