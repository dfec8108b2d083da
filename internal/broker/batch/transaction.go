package batch

import (
	"cmp"
	"slices"
)

// OpenTxn is a transaction without marker: nothing from First on is stable.
type OpenTxn struct {
	ProducerID int64
	First      int64
}

// EndedTxn is a transaction whose marker has been written. LastStable is the
// last stable offset right after it.
type EndedTxn struct {
	ProducerID int64
	First      int64 // offset of the transaction's first record here
	Marker     int64 // offset of its marker
	LastStable int64
	Commit     bool
}

// Transactions are the open transactions of one partition. The zero value has
// none. Not safe for concurrent use.
type Transactions struct {
	open []OpenTxn // by First
}

// Restore replaces the open transactions.
func (t *Transactions) Restore(open []OpenTxn) {
	t.open = slices.Clone(open)
	slices.SortFunc(t.open, func(a, b OpenTxn) int { return cmp.Compare(a.First, b.First) })
}

// Open returns a copy of the open transactions, by first offset.
func (t *Transactions) Open() []OpenTxn { return slices.Clone(t.open) }

// Apply takes the next batch of the log, with its offsets. If it is the marker
// of an open transaction, that one has ended and is returned.
func (t *Transactions) Apply(b Batch) (ended EndedTxn, ok bool) {
	if !b.IsTransactional() {
		return ended, false
	}
	id := b.ProducerID()
	at := slices.IndexFunc(t.open, func(o OpenTxn) bool { return o.ProducerID == id })
	if !b.IsControl() {
		if at < 0 {
			t.open = append(t.open, OpenTxn{ProducerID: id, First: b.BaseOffset()})
		}
		return ended, false
	}
	m, isMarker := b.Marker()
	if at < 0 || !isMarker {
		return ended, false // a second equal marker changes nothing
	}
	ended = EndedTxn{ProducerID: id, First: t.open[at].First, Marker: b.BaseOffset(), Commit: m.Commit}
	t.open = slices.Delete(t.open, at, at+1)
	ended.LastStable = t.LastStable(b.LastOffset() + 1)
	return ended, true
}

// LastStable is the last stable offset of a log that ends at end: the first
// offset of the oldest open transaction, or end.
func (t *Transactions) LastStable(end int64) int64 {
	if len(t.open) == 0 {
		return end
	}
	return t.open[0].First
}
