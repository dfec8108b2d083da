// Package meta is the contract of a small coordinating store: a sorted map from
// keys to values that changes only by guarded transactions and tells watchers of
// every change.
//
// The store has one revision, which each transaction that changes something
// raises. It may rise by more than one: a remote store is shared, and what others
// do under other prefixes raises it too. A transaction that changes nothing
// leaves it. Every key knows the revision that created it and the one that
// changed it last; a deleted and recreated key starts anew. Reads are
// linearizable: they see every transaction that was answered before they began.
//
// A transaction compares, then writes all or nothing. Its outcome is done (OK),
// not done (not OK, or an error that is not ErrUnknown), or unknown
// (ErrUnknown): then it may have been applied, or may still be, and the caller
// re-reads to decide. What was answered as done is durable.
//
// A lease is the life of whoever keeps it: the keys put with it vanish, all at
// one revision, when nobody refreshed it for its time to live. Its time is the
// store's; a keeper that was not answered must assume that its lease is gone
// when the time to live has passed since it sent the last answered refresh.
//
// The packages below implement the contract: metalocal in a local file for one
// process, metaetcd in an etcd for many, metamem in memory with faults for
// tests. All pass the suite of metatest; metaurl opens the one that a URL names.
// The store is for thousands of small keys and tens of transactions a second,
// not for data.
package meta

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrUnknown says that a transaction may or may not have been applied.
	// Re-read to decide.
	ErrUnknown = errors.New("outcome unknown")
	// ErrTooLarge says that a transaction is above MaxOps or MaxBytes. Nothing
	// was done.
	ErrTooLarge = errors.New("transaction too large")
	// ErrInvalid says that a transaction is malformed. Nothing was done.
	ErrInvalid = errors.New("invalid transaction")
	// ErrCompacted says that a watch asks for changes that are no longer kept.
	// Scan, and watch from the scan's revision.
	ErrCompacted = errors.New("revision compacted")
	// ErrNoLease says that a lease has expired, was revoked or never was. A
	// transaction that needs it did nothing.
	ErrNoLease = errors.New("no such lease")
	// ErrNoSpace says that the store is full. For a transaction it comes with
	// ErrUnknown: repeat it, as any other, once there is space.
	ErrNoSpace = errors.New("store is full")
	// ErrDenied says that the store refuses this user. Nothing was done.
	ErrDenied = errors.New("access denied")
	// ErrClosed says that the store is closed.
	ErrClosed = errors.New("store closed")
)

// Limits of one transaction, below what a stock etcd takes, so that whatever
// works on one machine works on many.
const (
	MaxOps      = 100       // compares, ops and else-gets together
	MaxBytes    = 512 << 10 // of all keys and values
	MaxKeyBytes = 1 << 10
)

// A KV is a key with its value. CreateRev is the revision that created the key,
// ModRev the one that changed it last.
type KV struct {
	Key               string
	Value             []byte
	CreateRev, ModRev int64
}

// CmpKind is what a Cmp compares.
type CmpKind uint8

// The comparisons, see the constructors of the same names.
const (
	CmpAbsent CmpKind = iota + 1
	CmpExists
	CmpModRev
	CmpCreateRev
	CmpValue
)

// A Cmp is one comparison of a transaction's guard. Use the constructors.
type Cmp struct {
	Kind  CmpKind
	Key   string
	Rev   int64
	Value []byte
}

// Absent holds if the key does not exist.
func Absent(key string) Cmp { return Cmp{Kind: CmpAbsent, Key: key} }

// Exists holds if the key exists.
func Exists(key string) Cmp { return Cmp{Kind: CmpExists, Key: key} }

// ModRevIs holds if the key was last changed by revision rev. 0: it is absent.
func ModRevIs(key string, rev int64) Cmp { return Cmp{Kind: CmpModRev, Key: key, Rev: rev} }

// CreateRevIs holds if the key was created by revision rev. 0: it is absent.
func CreateRevIs(key string, rev int64) Cmp { return Cmp{Kind: CmpCreateRev, Key: key, Rev: rev} }

// ValueIs holds if the key exists with exactly this value.
func ValueIs(key string, value []byte) Cmp { return Cmp{Kind: CmpValue, Key: key, Value: value} }

// Holds tells whether the comparison holds for the key's state.
func (c Cmp) Holds(kv KV, exists bool) bool {
	switch c.Kind {
	case CmpAbsent:
		return !exists
	case CmpExists:
		return exists
	case CmpModRev:
		return exists && kv.ModRev == c.Rev || !exists && c.Rev == 0
	case CmpCreateRev:
		return exists && kv.CreateRev == c.Rev || !exists && c.Rev == 0
	case CmpValue:
		return exists && string(kv.Value) == string(c.Value)
	}
	return false
}

// OpKind is what an Op does.
type OpKind uint8

// The operations, see the constructors of the same names.
const (
	OpPut OpKind = iota + 1
	OpDelete
	OpDeletePrefix
)

// LeaseID names a lease; 0 is none. An id is not used again.
type LeaseID int64

// An Op is one write of a transaction. Use the constructors.
type Op struct {
	Kind  OpKind
	Key   string
	Value []byte
	Lease LeaseID // of a put
}

// Put sets the key to the value.
func Put(key string, value []byte) Op { return Op{Kind: OpPut, Key: key, Value: value} }

// WithLease makes a put's key vanish with the lease. A key belongs to the lease of
// its last put only, so one without a lease keeps the key.
func (o Op) WithLease(id LeaseID) Op {
	o.Lease = id
	return o
}

// Delete removes the key; that it is absent is no error.
func Delete(key string) Op { return Op{Kind: OpDelete, Key: key} }

// DeletePrefix removes every key that starts with prefix, which is not empty.
func DeletePrefix(prefix string) Op { return Op{Kind: OpDeletePrefix, Key: prefix} }

// A Txn is: if all of If hold, do all of Then; otherwise read ElseGet. Both
// happen at one revision. No two Then may touch the same key. If all of If hold
// and a lease in Then is gone, nothing is done: ErrNoLease.
type Txn struct {
	If      []Cmp
	Then    []Op
	ElseGet []string
}

// A TxnResult tells what a transaction did. Rev is the store's revision after it.
type TxnResult struct {
	OK   bool // the comparisons held and Then is applied and durable
	Rev  int64
	Else []KV // those keys of ElseGet that exist, in ElseGet's order, when not OK
}

// An Event is one change of one key.
type Event struct {
	Key     string
	Value   []byte // nil when deleted
	ModRev  int64
	Deleted bool
}

// A Batch is what one transaction, or the end of a lease, changed of what a watch
// looks at. One without events is progress: everything up to Rev was sent, and
// Rev may be that of the batch before. Err is the end of the watch: ErrCompacted,
// ErrClosed, the context's error, or that of a store that can't be followed now.
type Batch struct {
	Rev    int64
	Events []Event
	Err    error
}

// A Store is a coordinating store. All methods may be called at the same time
// from many goroutines. Values given to the store are copied; values it returns
// belong to the caller, save for those of a Batch, which watchers share and must
// not change.
type Store interface {
	// Get returns those of the keys that exist, all as of revision rev.
	Get(ctx context.Context, keys ...string) (found map[string]KV, rev int64, err error)

	// Scan calls fn for every key that starts with prefix, in the order of the
	// keys' bytes, all as of revision rev. An error of fn ends the scan and is
	// returned. fn must not call the store.
	Scan(ctx context.Context, prefix string, fn func(KV) error) (rev int64, err error)

	// Txn runs a transaction, see Txn. ErrUnknown: it may have been applied.
	Txn(ctx context.Context, t Txn) (TxnResult, error)

	// Watch sends every change with a revision above after of keys that start
	// with prefix, in order of revisions, one Batch a revision, never part of
	// one. The last Batch has Err set, then the channel is closed. The watch ends
	// with ctx, and with ErrCompacted when the changes wanted are no longer kept:
	// at the start, or because the watcher is too slow. After any other error
	// watch again from the last Rev received.
	Watch(ctx context.Context, prefix string, after int64) <-chan Batch

	// Progress asks the watches of this store to send a Batch without events as
	// soon as they have sent everything up to the revision of now. It does not
	// wait for them. The request may be lost.
	Progress(ctx context.Context) error

	// Grant makes a lease that lives for ttl after each refresh; the store may
	// round it up, by seconds. An error may leave a lease that nobody keeps.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)

	// KeepAlive refreshes the lease once and returns how long it lives from the
	// moment of the request on. ErrNoLease: it is gone. After any other error
	// it is unknown whether it was refreshed.
	KeepAlive(ctx context.Context, id LeaseID) (time.Duration, error)

	// Revoke ends the lease and deletes its keys. ErrNoLease: it is gone. After
	// any other error it is unknown whether it is.
	Revoke(ctx context.Context, id LeaseID) error

	// Close ends all watches and closes the store.
	Close() error
}

// Check returns an error that wraps ErrTooLarge or ErrInvalid for a transaction
// that no store may run.
func (t Txn) Check() error {
	if n := len(t.If) + len(t.Then) + len(t.ElseGet); n > MaxOps {
		return fmt.Errorf("%w: %d operations, at most %d", ErrTooLarge, n, MaxOps)
	}
	size := 0
	key := func(what, k string) error {
		size += len(k)
		if k == "" || len(k) > MaxKeyBytes {
			return fmt.Errorf("%w: %s of a key of %d bytes", ErrInvalid, what, len(k))
		}
		return nil
	}
	for _, c := range t.If {
		size += len(c.Value)
		if c.Kind < CmpAbsent || c.Kind > CmpValue {
			return fmt.Errorf("%w: comparison kind %d", ErrInvalid, c.Kind)
		}
		if err := key("comparison", c.Key); err != nil {
			return err
		}
	}
	for i, o := range t.Then {
		size += len(o.Value)
		if o.Kind < OpPut || o.Kind > OpDeletePrefix {
			return fmt.Errorf("%w: operation kind %d", ErrInvalid, o.Kind)
		}
		if err := key("write", o.Key); err != nil {
			return err
		}
		if o.Lease != 0 && o.Kind != OpPut {
			return fmt.Errorf("%w: a lease without a put of key %q", ErrInvalid, o.Key)
		}
		for _, p := range t.Then[:i] {
			if o.overlaps(p) {
				return fmt.Errorf("%w: key %q written twice", ErrInvalid, o.Key)
			}
		}
	}
	for _, k := range t.ElseGet {
		if err := key("read", k); err != nil {
			return err
		}
	}
	if size > MaxBytes {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, MaxBytes)
	}
	return nil
}

// Covers tells whether the operation touches the key.
func (o Op) Covers(key string) bool {
	if o.Kind == OpDeletePrefix {
		return len(key) >= len(o.Key) && key[:len(o.Key)] == o.Key
	}
	return o.Key == key
}

func (o Op) overlaps(p Op) bool { return o.Covers(p.Key) || p.Covers(o.Key) }
