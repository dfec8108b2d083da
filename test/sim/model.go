package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// model is what must be true: what was sent, what was acknowledged where, and what
// was ever served.
type model struct {
	hist   *history
	mu     sync.Mutex
	topics []*topic
	sents  []*sent
}

// A topic is one life of a topic name.
type topic struct {
	catalog.Topic
	parts     []*part
	deleting  bool // somebody has asked for it
	deleted   bool // and was told that it is
	appending bool // LogAppendTime at some time
	compact   bool
	millis    int64 // the shortest retention.ms it ever had, -1 none
	bytes     int64 // the smallest retention.bytes
}

// A part is one partition.
type part struct {
	id      partition.ID
	topic   *topic
	at      map[int64]*sent  // by base offset, as served or acknowledged
	served  map[int64]uint64 // digest of the batch ever served at a base offset
	markers map[int64]marker
	// What an answer has said; a later question may get no less.
	start, high, stable int64
	asked               int64 // the largest offset that DeleteRecords was asked for
	acked               int   // batches
}

type marker struct {
	pid    int64
	commit bool
}

// A sent is one batch that a client has sent, any number of times.
type sent struct {
	number int
	part   *part
	pid    int64
	epoch  int16
	seq    int32
	count  int
	bytes  []byte // as they left the client
	base   int64  // -1 not known
	key    byte   // of all of its records
	acked  bool
	txn    *txn
	time   int64 // of its records, ms
}

// A txn is one transaction of one producer.
type txn struct {
	pid    int64
	epoch  int16
	ending bool // a marker may have been written
	commit bool
}

func (m *model) addTopic(t catalog.Topic) *topic {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.topics {
		if o.ID == t.ID {
			return o
		}
	}
	n := &topic{Topic: t, millis: -1, bytes: -1}
	for i := range t.Partitions {
		n.parts = append(n.parts, &part{
			id: partition.ID{Topic: t.ID, Index: i}, topic: n,
			at: map[int64]*sent{}, served: map[int64]uint64{}, markers: map[int64]marker{},
		})
	}
	m.topics = append(m.topics, n)
	n.configured(t.Config)
	return n
}

func (t *topic) configured(config map[string]string) {
	s := catalog.Topic{Config: config}.Settings()
	if s.RetentionMillis >= 0 && (t.millis < 0 || s.RetentionMillis < t.millis) {
		t.millis = s.RetentionMillis
	}
	if s.RetentionBytes >= 0 && (t.bytes < 0 || s.RetentionBytes < t.bytes) {
		t.bytes = s.RetentionBytes
	}
	t.appending = t.appending || s.LogAppendTime
	t.compact = t.compact || s.Compact
}

// living returns the topics that nobody has asked to delete.
func (m *model) living() []*topic {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*topic
	for _, t := range m.topics {
		if !t.deleting {
			all = append(all, t)
		}
	}
	return all
}

// write makes a new batch. Its records name it, so that it is known wherever it
// turns up.
func (m *model) write(p *part, pid int64, epoch int16, seq int32, count, size int, x *txn) *sent {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &sent{number: len(m.sents), part: p, pid: pid, epoch: epoch, seq: seq, count: count, base: -1, key: byte(len(m.sents) % 7), txn: x, time: time.Now().UnixMilli()}
	h := batch.Header{LeaderEpoch: -1, ProducerID: pid, ProducerEpoch: epoch, Sequence: seq}
	if x != nil {
		h.Attributes = batch.Transactional
	}
	var kvs []batch.KV
	for i := range count {
		v := binary.BigEndian.AppendUint64(nil, uint64(s.number))
		v = binary.BigEndian.AppendUint32(v, uint32(i))
		kvs = append(kvs, batch.KV{Timestamp: s.time, Key: []byte{s.key}, Value: append(v, make([]byte, size)...)})
	}
	s.bytes = batch.Build(h, kvs...)
	m.sents = append(m.sents, s)
	return s
}

// wrote says whether a producer has an acknowledged batch in a partition.
func (m *model) wrote(p *part, pid int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.sents, func(s *sent) bool { return s.part == p && s.pid == pid && s.acked })
}

// place says that the batch lies at base, by an acknowledgement or by a read.
func (m *model) place(s *sent, base int64, how string) {
	if s.base >= 0 && s.base != base {
		m.hist.violate("I1 I5: %s of batch %d of %s at offset %d, it lies at %d", how, s.number, s.part.id, base, s.base)
		return
	}
	if o := s.part.at[base]; o != nil && o != s {
		m.hist.violate("I2: %s of batch %d of %s at offset %d, where batch %d lies", how, s.number, s.part.id, base, o.number)
		return
	}
	s.base = base
	s.part.at[base] = s
}

// acknowledged takes a good answer.
func (m *model) acknowledged(s *sent, out partition.Appended) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if got := out.Last - out.Base + 1; got != int64(s.count) {
		m.hist.violate("I2: batch %d has %d records, it was acknowledged at %d-%d", s.number, s.count, out.Base, out.Last)
		return
	}
	m.place(s, out.Base, "acknowledgement")
	if !s.acked {
		s.acked = true
		s.part.acked++
	}
}

// bounds is what was known of a partition's offsets when a question was asked.
type bounds struct{ start, high, stable int64 }

// known is asked before a question.
func (m *model) known(p *part) bounds {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := bounds{p.start, p.high, p.stable}
	for base, s := range p.at {
		if s.acked {
			b.high = max(b.high, base+int64(s.count))
		}
	}
	return b
}

// told takes an answer's offsets.
func (m *model) told(p *part, before bounds, start, high, stable int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if start < before.start || high < before.high || stable < before.stable {
		m.hist.violate("offsets of %s went back: log start %d, high watermark %d, last stable %d; before: %d, %d, %d",
			p.id, start, high, stable, before.start, before.high, before.stable)
	}
	if start > high || stable > high {
		m.hist.violate("offsets of %s: log start %d, last stable %d, high watermark %d", p.id, start, stable, high)
	}
	p.start, p.high, p.stable = max(p.start, start), max(p.high, high), max(p.stable, stable)
}

// fixed is the part of a batch that the tape never changes.
func fixed(b batch.Batch, stamped bool) []byte {
	c := bytes.Clone(b)
	clear(c[:8])    // base offset
	clear(c[12:16]) // leader epoch
	if stamped {
		clear(c[17:23]) // CRC and attributes
		clear(c[35:43]) // the largest timestamp
	}
	return c
}

// served takes a batch that a reader got.
func (m *model) served(p *part, b batch.Batch) *sent {
	m.mu.Lock()
	defer m.mu.Unlock()
	base := b.BaseOffset()
	h := fnv.New64a()
	h.Write(b)
	if was, ok := p.served[base]; ok && was != h.Sum64() && !p.topic.compact {
		m.hist.violate("I7: %s at offset %d is not what was served before", p.id, base)
		return nil
	}
	p.served[base] = h.Sum64()
	if err := b.CheckCRC(); err != nil {
		m.hist.violate("I7: %s at offset %d: %v", p.id, base, err)
		return nil
	}
	if b.IsControl() {
		mark, ok := b.Marker()
		if !ok {
			m.hist.violate("I7: %s at offset %d: a control batch that nobody wrote", p.id, base)
			return nil
		}
		p.markers[base] = marker{b.ProducerID(), mark.Commit}
		return nil
	}
	if b.Count() == 0 && p.topic.compact {
		return nil // kept for its producer's last sequence
	}
	number, odd := -1, false
	b.Records(func(r batch.Record) bool {
		if len(r.Value) < 12 {
			odd = true
			return false
		}
		n := int(binary.BigEndian.Uint64(r.Value))
		odd = odd || number >= 0 && n != number || binary.BigEndian.Uint32(r.Value[8:]) != uint32(r.OffsetDelta)
		number = n
		return true
	})
	if odd {
		m.hist.violate("I7: %s at offset %d: a batch that nobody sent like that", p.id, base)
		return nil
	}
	if number < 0 || number >= len(m.sents) {
		m.hist.violate("I7: %s at offset %d: a batch that nobody sent", p.id, base)
		return nil
	}
	s := m.sents[number]
	stamped := p.topic.appending && b.IsLogAppendTime()
	rewritten := p.topic.compact && s.part == p && int(b.Count()) < s.count && b.ProducerID() == s.pid && b.ProducerEpoch() == s.epoch &&
		b.BaseSequence() == s.seq && int(b.LastOffsetDelta()) == s.count-1
	if s.part != p || !rewritten && !bytes.Equal(fixed(b, stamped), fixed(s.bytes, stamped)) {
		m.hist.violate("I7: %s at offset %d is not batch %d as it was sent to %s", p.id, base, number, s.part.id)
		return nil
	}
	m.place(s, base, "read")
	return s
}

// mayStart says whether the log start may have got where it is.
func (m *model) mayStart(p *part, start int64) error {
	if start <= p.asked {
		return nil
	}
	if p.topic.compact {
		return fmt.Errorf("I1: %s is compacted and starts at %d, it was deleted below %d", p.id, start, p.asked)
	}
	now := time.Now().UnixMilli()
	above := int64(200 * len(p.markers))
	for _, s := range m.sents {
		if s.part == p && (s.base < 0 || s.base >= start) {
			above += int64(len(s.bytes)) // what was never answered may be there
		}
	}
	for base, s := range p.at {
		if base >= start || base < p.asked || !s.acked {
			continue
		}
		byTime := p.topic.millis >= 0 && s.time <= now-p.topic.millis
		byBytes := p.topic.bytes >= 0 && above >= p.topic.bytes
		if !byTime && !byBytes {
			return fmt.Errorf("I1: %s starts at %d, nobody deleted batch %d at %d", p.id, start, s.number, base)
		}
	}
	return nil
}

// deletable says whether anything below the offset may be gone.
func (m *model) deletable(p *part, offset int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mayStart(p, offset) == nil
}

// superseded says whether compaction may have dropped a batch's record at offset: a
// newer one has its key, or its transaction was aborted.
func (m *model) superseded(s *sent, offset int64) bool {
	if !s.part.topic.compact {
		return false
	}
	if s.txn != nil && s.txn.ending && !s.txn.commit || offset < s.base+int64(s.count)-1 {
		return true
	}
	for base, o := range s.part.at {
		if base > offset && o.key == s.key && (o.txn == nil || o.txn.ending && o.txn.commit) {
			return true
		}
	}
	return false
}

// nothing says that compaction may have left nothing in [from, to).
func (m *model) nothing(p *part, from, to int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !p.topic.compact {
		return false
	}
	for base, s := range p.at {
		for o := max(base, from); o < min(to, base+int64(s.count)); o++ {
			if !m.superseded(s, o) {
				return false
			}
		}
	}
	return true
}

// complete holds everything that was acknowledged against what a full read got.
func (m *model) complete(p *part, got map[int64]*sent, start int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.mayStart(p, start); err != nil {
		m.hist.violate("%v", err)
	}
	for _, base := range slices.Sorted(maps.Keys(p.at)) {
		s := p.at[base]
		if !s.acked || base+int64(s.count) <= start {
			continue
		}
		for i := range int64(s.count) {
			if got[base+i] != s && !m.superseded(s, base+i) {
				m.hist.violate("I1: record %d of batch %d of %s was acknowledged at %d and is not there", i, s.number, p.id, base)
			}
		}
	}
	// Each producer's batches are in its order, without a hole, once.
	type key struct {
		pid   int64
		epoch int16
	}
	next := map[key]int32{}
	for _, base := range slices.Sorted(maps.Keys(p.at)) {
		s := p.at[base]
		if s.pid < 0 {
			continue
		}
		k := key{s.pid, s.epoch}
		if want, ok := next[k]; ok && want != s.seq {
			m.hist.violate("I5: %s at %d: producer %d epoch %d: sequence %d, want %d", p.id, base, s.pid, s.epoch, s.seq, want)
		}
		next[k] = s.seq + int32(s.count)
	}
}
