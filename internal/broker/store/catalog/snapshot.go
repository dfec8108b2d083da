package catalog

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
)

// A snapshot is every key of the catalog at one revision, as one object in the
// object store, for the day on which the coordinating store is lost (P13). All
// integers are big-endian:
//
//	magic 4 "LTMS", version 2 (1), zero 2
//	cluster id 16, number 8, line 8, taken 8 (ms), entries 8
//	entries, ascending by key: key length 4, value length 4, key, value
//	SHA-256 of the entries 32, CRC32C of everything before 4
//
// Snapshots of a cluster are numbered. The number is the store's revision plus a
// base that a restore sets to the number it restored, so numbers rise even when
// revisions begin anew. A restore also begins a new line: what it restored has
// nothing of what older lines did later. By both an old copy of the metadata, or
// one restored from an old snapshot, is known (Catalog.Outdated).
const (
	snapshotMagic   = "LTMS"
	snapshotVersion = 1
	snapshotHeader  = 56
	snapshotTrailer = sha256.Size + 4
	snapshotEntry   = 8
)

var (
	// ErrNotEmpty says that a restore found a catalog in the store.
	ErrNotEmpty = errors.New("the store already holds a catalog")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Entry is one key with its value.
type Entry struct {
	Key   string
	Value []byte
}

// Snapshot is the catalog at one revision.
type Snapshot struct {
	Cluster string // as ClusterID
	Number  int64
	Line    uint64    // random, made by the restore that this state goes back to; 0 none
	Taken   time.Time // to the millisecond
	Entries []Entry   // ascending by key
}

// Sum tells whether two snapshots hold the same.
func (s Snapshot) Sum() [sha256.Size]byte {
	var b []byte
	h := sha256.New()
	for _, e := range s.Entries {
		b = appendEntry(b[:0], e)
		h.Write(b)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func appendEntry(b []byte, e Entry) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Key)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Value)))
	b = append(b, e.Key...)
	return append(b, e.Value...)
}

// Encode returns the snapshot's bytes.
func (s Snapshot) Encode() ([]byte, error) {
	id, err := base64.RawURLEncoding.DecodeString(s.Cluster)
	if err != nil || len(id) != 16 {
		return nil, fmt.Errorf("encode snapshot: cluster id %q", s.Cluster)
	}
	size := snapshotHeader + snapshotTrailer
	for _, e := range s.Entries {
		size += snapshotEntry + len(e.Key) + len(e.Value)
	}
	b := make([]byte, 0, size)
	b = append(b, snapshotMagic...)
	b = binary.BigEndian.AppendUint32(b, snapshotVersion<<16)
	b = append(b, id...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Number))
	b = binary.BigEndian.AppendUint64(b, s.Line)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Taken.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(len(s.Entries)))
	for _, e := range s.Entries {
		b = appendEntry(b, e)
	}
	sum := sha256.Sum256(b[snapshotHeader:])
	b = append(b, sum[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// SnapshotHeaderBytes is how much of a snapshot DecodeSnapshotHeader needs.
const SnapshotHeaderBytes = snapshotHeader

// DecodeSnapshotHeader reads a snapshot's beginning: all but the entries. The
// checksum is at the other end, so what it says is not to be trusted far.
func DecodeSnapshotHeader(b []byte) (Snapshot, error) {
	s, _, err := decodeHeader(b)
	return s, err
}

func decodeHeader(b []byte) (s Snapshot, entries uint64, err error) {
	if len(b) < snapshotHeader || string(b[:4]) != snapshotMagic {
		return s, 0, fmt.Errorf("%w: %d bytes are no snapshot", ErrCorrupt, len(b))
	}
	if v := binary.BigEndian.Uint32(b[4:]); v != snapshotVersion<<16 {
		return s, 0, fmt.Errorf("%w: snapshot version %d, this program reads %d", ErrCorrupt, v>>16, snapshotVersion)
	}
	s = Snapshot{
		Cluster: base64.RawURLEncoding.EncodeToString(b[8:24]),
		Number:  int64(binary.BigEndian.Uint64(b[24:])),
		Line:    binary.BigEndian.Uint64(b[32:]),
		Taken:   time.UnixMilli(int64(binary.BigEndian.Uint64(b[40:]))),
	}
	return s, binary.BigEndian.Uint64(b[48:]), nil
}

// DecodeSnapshot reads what Encode wrote. The entries share b. ErrCorrupt.
func DecodeSnapshot(b []byte) (Snapshot, error) {
	bad := func(what string) (Snapshot, error) {
		return Snapshot{}, fmt.Errorf("%w: snapshot of %d bytes: %s", ErrCorrupt, len(b), what)
	}
	if len(b) < snapshotHeader+snapshotTrailer {
		return bad("too short")
	}
	s, count, err := decodeHeader(b)
	if err != nil {
		return Snapshot{}, err
	}
	end := len(b) - 4
	if want, got := binary.BigEndian.Uint32(b[end:]), crc32.Checksum(b[:end], castagnoli); want != got {
		return bad(fmt.Sprintf("CRC %08x, want %08x", got, want))
	}
	body := b[snapshotHeader : len(b)-snapshotTrailer]
	if sha256.Sum256(body) != [sha256.Size]byte(b[len(b)-snapshotTrailer:end]) {
		return bad("the sum of its entries is wrong")
	}
	if count > uint64(len(body)/snapshotEntry) || s.Number < 0 {
		return bad(fmt.Sprintf("%d entries, number %d", count, s.Number))
	}
	s.Entries = make([]Entry, 0, count)
	for range count {
		if len(body) < snapshotEntry {
			return bad("an entry is cut")
		}
		k, v := int64(binary.BigEndian.Uint32(body)), int64(binary.BigEndian.Uint32(body[4:]))
		if body = body[snapshotEntry:]; k > meta.MaxKeyBytes || v > meta.MaxBytes || k+v > int64(len(body)) {
			return bad(fmt.Sprintf("an entry with a key of %d and a value of %d bytes", k, v))
		}
		e := Entry{Key: string(body[:k]), Value: body[k : k+v : k+v]}
		if n := len(s.Entries); !kept(e.Key) || n > 0 && s.Entries[n-1].Key >= e.Key {
			return bad(fmt.Sprintf("key %q", e.Key))
		}
		s.Entries, body = append(s.Entries, e), body[k+v:]
	}
	if len(body) != 0 {
		return bad("bytes left over")
	}
	return s, nil
}

// kept says whether a key belongs in a snapshot: not what ends with its process,
// and not what a restore writes itself.
func kept(key string) bool {
	live := strings.HasPrefix(key, prefixBrokers) && strings.HasSuffix(key, "/live")
	return strings.HasPrefix(key, root) && key != keyController && key != keySnapshotBase && !live
}

// Snapshot reads the whole catalog at one revision.
func (c *Catalog) Snapshot(ctx context.Context) (Snapshot, error) {
	for attempt := 1; ; attempt++ {
		s := Snapshot{Cluster: c.cluster, Taken: time.UnixMilli(c.cfg.Now().UnixMilli())}
		var from origin
		rev, err := c.store.Scan(ctx, root, func(kv meta.KV) (err error) {
			if kv.Key == keySnapshotBase {
				from, err = decodeOrigin(kv.Value)
			}
			if kept(kv.Key) {
				s.Entries = append(s.Entries, Entry{kv.Key, kv.Value})
			}
			return err
		})
		if errors.Is(err, meta.ErrCompacted) && attempt < readAttempts {
			continue
		}
		if err != nil {
			return Snapshot{}, fmt.Errorf("take snapshot of the catalog: %w", err)
		}
		s.Number, s.Line = from.base+rev, from.line
		return s, nil
	}
}

// origin is where a restored store began.
type origin struct {
	base int64 // number of the snapshot
	line uint64
}

func encodeOrigin(o origin) []byte {
	e := newEncoder()
	e.i64(o.base)
	e.i64(int64(o.line))
	return e.bytes()
}

func decodeOrigin(b []byte) (origin, error) {
	d := newDecoder("snapshot base", b)
	o := origin{base: d.i64(), line: uint64(d.i64())}
	if o.base < 0 {
		d.bad = true
	}
	return o, d.done()
}

// Outdated returns nil if the catalog holds all that the newest snapshot in the
// bucket holds, and why not otherwise: the snapshot is of the catalog's own line
// and has a number that the catalog has not reached, or it is of another line and
// not the one that this began with.
func (c *Catalog) Outdated(ctx context.Context, newest Snapshot) (why, err error) {
	found, rev, err := c.store.Get(ctx, keySnapshotBase)
	if err != nil {
		return nil, fmt.Errorf("read snapshot number: %w", err)
	}
	var from origin
	if kv, ok := found[keySnapshotBase]; ok {
		if from, err = decodeOrigin(kv.Value); err != nil {
			return nil, fmt.Errorf("read snapshot number: %w", err)
		}
	}
	switch {
	case newest.Line == from.line && newest.Number > from.base+rev:
		return fmt.Errorf("snapshot %d is newer than the metadata, which is at %d", newest.Number, from.base+rev), nil
	case newest.Line != from.line && newest.Number > from.base:
		return fmt.Errorf("snapshot %d is newer than snapshot %d, from which the metadata was restored", newest.Number, from.base), nil
	}
	return nil, nil
}

// restoreBatch is how many keys one transaction of a restore writes.
const restoreBatch = meta.MaxOps - 2

// Restore writes a snapshot into a store without a catalog. The cluster's id goes
// last, so a restore that did not end leaves no catalog, and may be repeated.
// ErrNotEmpty: there is one.
func Restore(ctx context.Context, store meta.Store, s Snapshot) error {
	id := slices.IndexFunc(s.Entries, func(e Entry) bool { return e.Key == keyCluster })
	if id < 0 {
		return fmt.Errorf("restore snapshot %d: %w: no cluster id", s.Number, ErrCorrupt)
	}
	last := s.Entries[id]
	if c, err := decodeCluster(last.Value); err != nil || base64.RawURLEncoding.EncodeToString(c[:]) != s.Cluster {
		return fmt.Errorf("restore snapshot %d: %w: it is of cluster %s, its keys say otherwise", s.Number, ErrCorrupt, s.Cluster)
	}
	wanted := make(map[string][]byte, len(s.Entries))
	for _, e := range s.Entries {
		wanted[e.Key] = e.Value
	}
	// What is there may only be what an earlier attempt wrote.
	if _, err := store.Scan(ctx, root, func(kv meta.KV) error {
		if kv.Key == keyCluster {
			return ErrNotEmpty
		}
		if v, ok := wanted[kv.Key]; kv.Key != keySnapshotBase && (!ok || !bytes.Equal(v, kv.Value)) {
			return fmt.Errorf("%w: key %q", ErrNotEmpty, kv.Key)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("restore snapshot %d: %w", s.Number, err)
	}
	c := &Catalog{store: store} // for its txn
	write := func(ops []meta.Op) error {
		res, err := c.txn(ctx, meta.Txn{If: []meta.Cmp{meta.Absent(keyCluster)}, Then: ops, ElseGet: []string{keyCluster}})
		if err != nil {
			return fmt.Errorf("restore snapshot %d: %w", s.Number, err)
		}
		if !res.OK && (ops[len(ops)-1].Key != keyCluster || len(res.Else) != 1 || !bytes.Equal(res.Else[0].Value, last.Value)) {
			return fmt.Errorf("restore snapshot %d: %w", s.Number, ErrNotEmpty)
		}
		return nil
	}
	var ops []meta.Op
	size := 0
	for i, e := range s.Entries {
		if i == id {
			continue
		}
		if n := len(e.Key) + len(e.Value); len(ops) == restoreBatch || size+n > meta.MaxBytes/2 && len(ops) > 0 {
			if err := write(ops); err != nil {
				return err
			}
			ops, size = nil, 0
		}
		ops, size = append(ops, meta.Put(e.Key, e.Value)), size+len(e.Key)+len(e.Value)
	}
	if len(ops) > 0 {
		if err := write(ops); err != nil {
			return err
		}
	}
	var line [8]byte
	rand.Read(line[:])
	from := origin{base: s.Number, line: binary.BigEndian.Uint64(line[:])}
	return write([]meta.Op{meta.Put(keySnapshotBase, encodeOrigin(from)), meta.Put(last.Key, last.Value)})
}

// Epochs returns the newest epoch of each broker that ever registered, read now.
func (c *Catalog) Epochs(ctx context.Context) (map[int32]int64, error) {
	newest := map[int32]int64{}
	if _, err := c.store.Scan(ctx, prefixFence, func(kv meta.KV) error {
		broker, rest, ok := parseNumbered(kv.Key[len(prefixFence):])
		epoch, err := strconv.ParseInt(rest, 10, 64)
		if !ok || err != nil || broker != int64(int32(broker)) {
			return fmt.Errorf("%w: key %q", ErrCorrupt, kv.Key)
		}
		newest[int32(broker)] = max(newest[int32(broker)], epoch)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read epochs: %w", err)
	}
	return newest, nil
}
