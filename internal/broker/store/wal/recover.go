package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/run"
)

// Recovered is what Recover found: the dead epochs that still have segments, the
// oldest first. It is given to Open.
type Recovered struct {
	Epochs []EpochEnd

	kept  []segment // with blocks, by epoch and number
	spare []segment // without any
	carry carry     // the last block of the newest epoch that has records
}

// An EpochEnd says what is left of a dead epoch and where it ended, for ever.
type EpochEnd struct {
	Epoch int64
	// First and Last bound the records found: what lies below First was trimmed
	// in the epoch's life. The caller has to check that nothing it still needs is
	// below First. First = Last+1 when no record is left.
	First, Last LSN
	// Clean says that the log was closed by Run, rather than cut off.
	Clean bool
	// Bytes of blocks that the epoch's segments hold.
	Bytes int64
}

// Recover reads what the dead epochs of the log walID left in dir, and calls fn for
// every record, epoch by epoch, in LSN order; data is fn's only until it returns. It
// changes nothing on the disk: a torn last block stays, and Open writes down that it
// is none. What was trimmed long before the end is not read.
//
// The records may be served only after Open returned, which makes the last of them
// durable for certain. An error is a *CorruptError when something that was durable
// is damaged or missing, fn's own, or the disk's.
func Recover(ctx context.Context, fs disk.FS, dir string, walID [16]byte, fn func(epoch int64, lsn LSN, data []byte) error) (*Recovered, error) {
	if _, err := fs.Stat(dir); disk.Missing(err) {
		return &Recovered{}, nil
	}
	lock, err := fs.Lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("recover log: %w", err)
	}
	r, err := recoverDir(ctx, fs, dir, walID, fn)
	if err = errors.Join(err, lock.Close()); err != nil {
		return nil, fmt.Errorf("recover log: %w", err)
	}
	return r, nil
}

// recoverDir is Recover with the lock held.
func recoverDir(ctx context.Context, fs disk.FS, dir string, walID [16]byte, fn func(int64, LSN, []byte) error) (*Recovered, error) {
	found, err := list(fs, dir)
	if err != nil {
		return nil, err
	}
	epochs, err := byEpoch(found.segments)
	if err != nil {
		return nil, err
	}
	scans := make([]*scan, len(epochs))
	var mem windows
	defer mem.free()
	for i, segments := range epochs {
		scans[i] = &scan{
			fs: fs, id: Identity{walID, segments[0].epoch}, segments: segments,
			end: -1, fn: fn, mem: &mem,
		}
		adopted, err := scans[i].readAdoption()
		if err == nil {
			err = scans[i].readMarks(adopted)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := shareEnds(scans); err != nil {
		return nil, err
	}
	r := &Recovered{}
	for _, s := range scans {
		if err := s.run(ctx); err != nil {
			return nil, err
		}
		r.kept = append(r.kept, s.segments[:s.begun]...)
		r.spare = append(r.spare, s.segments[s.begun:]...)
		if s.begun == 0 {
			continue
		}
		e := EpochEnd{Epoch: s.id.Epoch, First: s.firstLSN, Last: s.next - 1, Clean: s.clean}
		for _, g := range s.segments[:s.begun] {
			e.Bytes += g.used
		}
		r.Epochs = append(r.Epochs, e)
		switch {
		case s.tail.epoch == 0:
		case s.clean:
			r.carry = carry{} // its close block vouches for its last records
		default:
			r.carry = s.tail
		}
	}
	return r, nil
}

// byEpoch groups the segments and refuses gaps: segments vanish from the front
// only, one by one.
func byEpoch(segments []segment) ([][]segment, error) {
	var epochs [][]segment
	for i, s := range segments {
		if s.size < minSegmentBytes || s.size%minAlign != 0 {
			return nil, &CorruptError{
				File: s.path, Offset: s.size, What: "file size",
				Want: fmt.Sprintf("a multiple of %d from %d on", minAlign, minSegmentBytes), Got: fmt.Sprint(s.size),
			}
		}
		if i == 0 || segments[i-1].epoch != s.epoch {
			epochs = append(epochs, nil)
		} else if want := segments[i-1].seq + 1; s.seq != want {
			return nil, &CorruptError{
				File: s.path, What: "number of the segment after " + filepath.Base(segments[i-1].path),
				Want: fmt.Sprint(want), Got: fmt.Sprint(s.seq),
			}
		}
		last := len(epochs) - 1
		epochs[last] = append(epochs[last], s)
	}
	return epochs, nil
}

// shareEnds tells every scan what later epochs wrote down about its end.
func shareEnds(scans []*scan) error {
	for i, s := range scans {
		for _, later := range scans[i+1:] {
			end := later.adoption.end(s.id.Epoch)
			if end < 0 {
				continue
			}
			if s.end >= 0 && s.end != end {
				return &CorruptError{
					File: later.segments[0].path, What: fmt.Sprintf("end of epoch %d", s.id.Epoch),
					Want: fmt.Sprint(s.end), Got: fmt.Sprint(end),
				}
			}
			s.end = end
			if c := later.adoption.carry; c.epoch == s.id.Epoch {
				s.carried = c
			}
		}
	}
	return nil
}

// A scan reads one dead epoch.
type scan struct {
	fs       disk.FS
	id       Identity
	segments []segment
	fn       func(int64, LSN, []byte) error
	mem      *windows

	adoption adoption // of its first block, if that is there
	end      LSN      // written down by a later epoch; -1: not
	carried  carry    // by a later epoch

	marks []*mark // of the segments; nil: none
	from  int     // where to begin: the segment; the place is its used

	sized    bool // checkSizes has run
	begun    int  // segments with blocks
	next     LSN  // 0: not known yet
	firstLSN LSN
	clean    bool
	tail     carry // the last block of records
	tailMem  []byte
}

// readAdoption reads the epoch's first block, if its first segment is there and
// the block is, and returns why it is not.
func (s *scan) readAdoption() (missing, err error) {
	if s.segments[0].seq != 1 {
		return nil, nil
	}
	r, err := openReader(s.fs, s.segments[0].path, minAlign, s.mem)
	if err != nil {
		return nil, err
	}
	h, body, err := r.block(0, s.id, 1)
	if err == nil && h.kind != kindAdopt {
		err = differs("block kind", "adopt in front of the epoch", byte(h.kind))
	}
	if err == nil {
		if s.adoption, err = parseAdoption(bytes.Clone(body)); err != nil {
			err = s.corrupt(0, 0, err)
		}
	}
	if isMismatch(err) {
		missing, err = err, nil // run decides what that means
	}
	return missing, errors.Join(err, r.close())
}

// readMarks reads the marks of the segments and decides where to begin. missing
// says why the adopt block can't be read.
func (s *scan) readMarks(missing error) error {
	s.marks = make([]*mark, len(s.segments))
	var newest *mark
	for i, g := range s.segments {
		r, err := openReader(s.fs, g.path, minAlign, s.mem)
		if err != nil {
			return err
		}
		m, err := r.mark(s.id, g.seq)
		if isMismatch(err) {
			err = nil
		}
		if err = errors.Join(err, r.close()); err != nil {
			return err
		}
		if s.marks[i] = m; m == nil {
			continue
		}
		if missing != nil {
			// It was synced before anything else was written.
			return s.corrupt(0, 0, missing)
		}
		if newest == nil || m.startLSN > newest.startLSN {
			newest = m
		}
	}
	if newest == nil || newest.startSeq < s.segments[0].seq {
		return nil // it has been released since: what is left begins later
	}
	s.from = int(newest.startSeq - s.segments[0].seq)
	s.next, s.firstLSN = newest.startLSN, newest.startLSN
	s.begun = s.from
	if newest.startAt > 0 {
		s.begun++
	}
	for i := range s.segments[:s.begun] {
		s.segments[i].last = newest.startLSN - 1
	}
	s.segments[s.from].used = newest.startAt
	return nil
}

// run reads the epoch to its end.
func (s *scan) run(ctx context.Context) error {
	defer func() { s.fn = nil }()
	for i := s.from; i < len(s.segments); i++ {
		if i > s.from && s.ended() {
			return nil
		}
		on, err := s.segment(ctx, i)
		if err != nil || !on {
			return err
		}
	}
	if s.ended() || s.end < 0 {
		return nil // the last segment is full and no other was begun
	}
	last := len(s.segments) - 1
	return s.bad(ctx, last, s.segments[last].used, differs("next segment", "one", "none"))
}

// ended tells whether all that a later epoch knows of was read.
func (s *scan) ended() bool { return s.end >= 0 && s.next > s.end }

// segment reads the segment i and tells whether the log goes on in the next.
func (s *scan) segment(ctx context.Context, i int) (on bool, err error) {
	g := &s.segments[i]
	r, err := openReader(s.fs, g.path, windowBytes, s.mem)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if m := s.marks[i]; m != nil {
		r.until = max(m.limit, minAlign)
	}
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		h, body, err := r.block(g.used, s.id, g.seq)
		if s.ended() {
			// Whatever follows is nothing; but it may say that Run closed the log.
			s.clean = err == nil && h.kind == kindClose && h.first == s.next
			return false, nil
		}
		if err == nil {
			err = s.expected(h, i, g.used)
		}
		if isMismatch(err) {
			return false, s.bad(ctx, i, g.used, err)
		}
		if err != nil {
			return false, err
		}
		if err := s.checkSizes(h.segment); err != nil {
			return false, err
		}
		at := g.used
		s.begun = i + 1
		if s.next == 0 {
			s.next, s.firstLSN = h.first, h.first
		}
		if h.kind == kindData {
			if err := s.records(h.first, h.last, body); errors.Is(err, errBody) {
				return false, s.corrupt(i, at, err)
			} else if err != nil {
				return false, err
			}
		}
		g.used += h.bytes()
		g.last = s.next - 1
		switch h.kind {
		case kindEnd:
			return true, nil
		case kindClose:
			s.clean = true
			if s.end > h.last {
				return false, s.corrupt(i, at, differs("last LSN", s.end, h.last))
			}
			return false, nil
		}
	}
}

// checkSizes refuses a segment that has become shorter: what was cut off would
// look as if it had never been written.
func (s *scan) checkSizes(want int64) error {
	if s.sized {
		return nil
	}
	s.sized = true
	for _, g := range s.segments {
		if g.size < want {
			return &CorruptError{
				File: g.path, Offset: g.size, What: "file size",
				Want: fmt.Sprintf("at least %d", want), Got: fmt.Sprint(g.size),
			}
		}
	}
	return nil
}

// expected tells whether a valid block may stand where it was found. A jump of the
// LSN is the end of the log, never data.
func (s *scan) expected(h header, i int, at int64) error {
	first := i == 0 && at == 0
	switch {
	case (h.kind == kindAdopt) != (first && s.segments[0].seq == 1):
		return differs("block kind", "adopt in front of the epoch and nowhere else", byte(h.kind))
	case s.next != 0 && h.first != s.next:
		return differs("first LSN", s.next, h.first)
	case h.kind == kindData && h.last < h.first, h.kind != kindData && h.last >= h.first:
		return differs("last LSN", h.first, h.last)
	case s.end >= 0 && h.last > s.end:
		return differs("last LSN", fmt.Sprintf("at most %d", s.end), h.last)
	}
	return nil
}

// records hands the records of a block on.
func (s *scan) records(first, last LSN, body []byte) error {
	// Checked before the first goes out.
	if err := eachRecord(body, first, last, func(LSN, []byte) error { return nil }); err != nil {
		return err
	}
	s.tailMem = append(s.tailMem[:0], body...) // the memory of body is soon another's
	s.tail = carry{s.id.Epoch, first, last, s.tailMem}
	return eachRecord(body, first, last, func(lsn LSN, data []byte) error {
		s.next = lsn + 1
		return s.fn(s.id.Epoch, lsn, data)
	})
}

// bad decides what it means that there is no good block at byte `at` of segment i:
// the end of the log, a torn last block, or damage.
func (s *scan) bad(ctx context.Context, i int, at int64, why error) error {
	if s.end >= 0 && s.next > 0 {
		// A later epoch knows that there were more records.
		return s.fromCarry(i, at, why)
	}
	// One block is in flight at a time. Anything valid written after the one
	// expected here says that it was synced: then it is damaged, not torn.
	last, limit := len(s.segments)-1, s.segments[i].size
	if m := s.marks[i]; m != nil {
		if m.durable >= max(s.next, 1) {
			e := s.corrupt(i, at, why)
			e.Got += " (and a mark that it was written)"
			return e
		}
		if limit = m.limit; limit < s.segments[i].size {
			last = i // no later one was begun
		}
	}
	later, found, err := s.later(ctx, place{i, at}, place{last, limit})
	if err != nil {
		return err
	}
	if found {
		e := s.corrupt(i, at, why)
		e.Got += fmt.Sprintf(" (and a later block at byte %d of %s)", later.at, filepath.Base(s.segments[later.segment].path))
		return e
	}
	if s.end > 0 {
		// Open put aside what was never begun before it wrote the end down: this
		// was begun, and nothing of it is left.
		return s.fromCarry(i, at, why)
	}
	return nil
}

// A place is where a block may begin.
type place struct {
	segment int
	at      int64
}

// A stretch is a part of a segment to look through, up to byte end.
type stretch struct {
	place
	end int64
}

// The search for later blocks reads what may be two whole segments before the
// broker can start, so it keeps the disk busy.
const (
	stretchBytes  = 2 << 20
	searchReaders = 4
)

// later looks from one place to the other for a valid block that says that the
// record expected there was synced, and returns the first one found.
func (s *scan) later(ctx context.Context, from, to place) (first place, found bool, err error) {
	var work []stretch
	at := from.at
	for j := from.segment; j <= to.segment; j++ {
		end := s.segments[j].size
		if j == from.segment && j == to.segment {
			end = to.at
		}
		for ; at < end; at += stretchBytes {
			work = append(work, stretch{place{j, at}, min(at+stretchBytes, end)})
		}
		at = 0
	}
	places := make([]place, len(work))
	var next atomic.Int64
	g := run.New(ctx)
	for range min(searchReaders, len(work)) {
		g.Go("wal-search", func(ctx context.Context) error {
			for n := int(next.Add(1)) - 1; n < len(work); n = int(next.Add(1)) - 1 {
				var err error
				if places[n], err = s.search(ctx, work[n]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
		return place{}, false, err
	}
	for _, p := range places {
		if p.at >= 0 {
			return p, true, nil
		}
	}
	return place{}, false, nil
}

// search looks through a stretch; a place below 0 says that nothing was found.
func (s *scan) search(ctx context.Context, w stretch) (place, error) {
	g := s.segments[w.segment]
	var mem windows
	defer mem.free()
	r, err := openReader(s.fs, g.path, searchBytes, &mem)
	if err != nil {
		return place{}, err
	}
	at, err := r.find(ctx, w.at, w.end, s.id, g.seq, s.next)
	return place{w.segment, at}, errors.Join(err, r.close())
}

// fromCarry goes on with the copy of the last block that a later epoch carries.
func (s *scan) fromCarry(i int, at int64, why error) error {
	c := s.carried
	if s.next == 0 && s.segments[0].seq > 1 {
		return s.corrupt(i, at, why) // nothing says what is missing
	}
	if c.last != s.end || c.first != max(s.next, 1) {
		return s.corrupt(i, at, why)
	}
	if s.next == 0 {
		s.next, s.firstLSN = 1, 1
	}
	s.begun = max(s.begun, i+1)
	if err := s.records(c.first, c.last, c.records); err != nil {
		return err
	}
	s.segments[i].last = s.end
	return nil
}

// corrupt makes the error for the block at byte `at` of segment i.
func (s *scan) corrupt(i int, at int64, why error) *CorruptError {
	e := &CorruptError{File: s.segments[i].path, Offset: at, What: "block", Want: "what was written", Got: why.Error()}
	var m *mismatch
	if errors.As(why, &m) {
		e.What, e.Want, e.Got = m.what, m.want, m.got
	}
	return e
}
