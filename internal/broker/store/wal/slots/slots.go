// Package slots is the log in an object store: wal.Log without a disk.
//
// What a broker appends is gathered into slots, objects with consecutive numbers
// that are created only if absent, up to eight puts at a time. A slot's number and
// bytes are fixed at its first attempt; every repetition sends the same. A record
// is acknowledged when its slot and all slots before it are stored, in LSN order,
// from one goroutine. The first record after a silence is put at once; while puts
// are in flight, or slots get full, the next slot fills for the linger, which a
// budget of requests sets. Without appends there is no request and no timer.
//
// A broker that takes a dead one's log over calls Seal, which occupies the first
// free slot for ever: whatever the dead one, if it was only paused, still has in
// flight comes to lie behind the seal, or in front of it and is recovered; at the
// seal it finds that the slot is taken, and acknowledges nothing more. So no clock
// decides. Read then hands out every record up to the seal, which includes all
// that were ever acknowledged. Slots beyond it never were.
//
// How it fails. An outage, a throttled or an ambiguous put is repeated with growing
// pauses until its outcome is definite; meanwhile fewer puts run at a time and
// Reserve slows the callers, and memory stays bounded. A slot taken by somebody
// else ends the log with wal.ErrFenced: every record from there on is answered with
// it, Run returns it, and the process has to end. Reading refuses what is damaged,
// missing or foreign with a *wal.CorruptError that names the object; it never skips
// a record and never invents one.
//
// docs/format/slot.md draws the bytes.
package slots

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sort"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// Config says whose log it is and tunes it. From Linger on the zero value is the
// default.
type Config struct {
	Store  blob.Store
	Prefix string   // of the keys: "wal/" and the cluster's id
	Broker int32    // whose log
	Epoch  int64    // of this start of the broker, above all others
	Nonce  [16]byte // made once per process

	// Conditional says that the store's Put really creates only, see
	// blob.Features. Where it does not, or a blob.Conditioner says so later,
	// StillMine is asked after puts and before their records are acknowledged: nil
	// when the epoch is not sealed in the metadata as of now, an error that wraps
	// wal.ErrFenced when it is; after any other error it is asked again.
	Conditional bool
	StillMine   func(ctx context.Context) error

	// Adopted are the broker's dead epochs whose records the caller has read and
	// will commit: TrimEpoch knows them.
	Adopted []*Recovered

	// Linger is how long a slot fills while others are in flight, fixed. Default:
	// between MinLinger (50 ms) and MaxLinger (250 ms), by the budget. While slots
	// get full it is as long as a put takes, if that is longer, up to 4 MaxLinger.
	Linger               time.Duration
	MinLinger, MaxLinger time.Duration
	// BudgetPerMonth is how many slots may be put in 30 days, if they are not
	// full; see RequestsFor. Default 10,500,000, which is one every 250 ms. Below
	// 0: no budget.
	BudgetPerMonth int64
	// MaxSlotBytes is the size of a full slot; a record may go over its end by an
	// eighth. Default 8 MiB.
	MaxSlotBytes int
	// InFlight bounds the slots started and not yet acknowledged. Default 8.
	InFlight int
	// MaxRecord is the largest record. Above MaxSlotBytes a record gets a slot of
	// its own. Default 64 MiB.
	MaxRecord int
	// MaxQueued bounds the bytes appended and not yet durable, in flight included;
	// Reserve waits above it. Default 12 slots.
	MaxQueued int64
	// MaxUncommitted bounds the bytes that are not trimmed; Reserve waits above
	// it. Default 512 MiB.
	MaxUncommitted int64
	// PutTimeout is when an attempt is given up and repeated; it gets a second
	// more for each MiB. Default 15 s.
	PutTimeout time.Duration
	// RetryMin and RetryMax bound the pause after a failure. Default 50 ms and 5 s.
	RetryMin, RetryMax time.Duration
	// DrainTimeout bounds how long Run goes on after its context ended. Default
	// 10 s.
	DrainTimeout time.Duration
	// DeletesPerSecond bounds the deletion of trimmed slots. Default 100.
	DeletesPerSecond int
	// Logger is told of trouble that is waited out. Default: nobody.
	Logger *slog.Logger
	// Rand gives numbers in [0, 1) for pauses. Default rand.Float64.
	Rand func() float64
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	if c.Linger > 0 {
		c.MinLinger, c.MaxLinger = c.Linger, c.Linger
	}
	def(&c.MinLinger, 50*time.Millisecond)
	def(&c.MaxLinger, max(c.MinLinger, 250*time.Millisecond))
	if c.BudgetPerMonth == 0 {
		c.BudgetPerMonth = 10_500_000
	}
	if c.MaxSlotBytes <= 0 {
		c.MaxSlotBytes = 8 << 20
	}
	c.MaxSlotBytes = min(c.MaxSlotBytes, maxBodyBytes/2)
	if c.InFlight <= 0 {
		c.InFlight = 8
	}
	if c.MaxRecord <= 0 {
		c.MaxRecord = 64 << 20
	}
	c.MaxRecord = min(c.MaxRecord, maxBodyBytes-recordHeaderBytes)
	if c.MaxQueued <= 0 {
		c.MaxQueued = 12 * int64(c.MaxSlotBytes)
	}
	if c.MaxUncommitted <= 0 {
		c.MaxUncommitted = 512 << 20
	}
	def(&c.PutTimeout, 15*time.Second)
	def(&c.RetryMin, 50*time.Millisecond)
	def(&c.RetryMax, 5*time.Second)
	c.RetryMax = max(c.RetryMax, c.RetryMin)
	def(&c.DrainTimeout, 10*time.Second)
	if c.DeletesPerSecond <= 0 {
		c.DeletesPerSecond = 100
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	return c
}

// A Log is a wal.Log in an object store. Use Open.
//
// One goroutine, the loop of Run, starts puts and calls Done; each put has a
// goroutine of its own while it lasts; one more deletes what is trimmed. The mutex
// guards what they share with the callers and is never held across a request.
type Log struct {
	cfg    Config
	epoch  series
	writer Writer

	wake     chan struct{} // the loop should look; holds one
	finished chan *slot    // puts that ended; holds all
	checked  chan error    // what StillMine said; holds one
	trimWake chan struct{} // there is something to delete; holds one

	flight   []*slot // started and not acknowledged, in order; the loop's
	checking int     // slots of flight that StillMine is asked for; the loop's

	mu       sync.Mutex
	fill     *slot   // takes appends; nil: none
	full     []*slot // to be put before it, in order
	spare    [][]*wal.Record
	waiters  []*waiter
	promised int64 // set aside by Reserve
	next     wal.LSN
	durable  wal.LSN
	seq      int64         // of the last slot started
	window   int           // slots that may be started now: InFlight, less after failures
	started  time.Time     // the last slot was
	filled   time.Time     // the last one became full
	putTime  time.Duration // of a put, lately
	budget   budget
	ending   bool
	err      error // final

	written  []placed // durable, not given to deletion
	behind   placed   // the last one given to deletion
	trimmed  wal.LSN
	released int64 // number of the last slot that no longer counts as uncommitted
	adopted  map[int64]*adopted
	doomed   []doomed // to be deleted
	stats    Stats
}

var _ wal.Log = (*Log)(nil)

// placed is a durable slot.
type placed struct {
	seq   int64
	last  wal.LSN
	bytes int64
}

// Open opens the log for a new epoch and starts nothing. The epoch must not have
// slots: wal.ErrEpoch, when the metadata that gave it out has gone back in time.
// Failures of the store are waited out until ctx ends.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	cfg = cfg.withDefaults()
	of := series{cfg.Prefix, cfg.Broker, cfg.Epoch}
	if err := open(ctx, cfg, of); err != nil {
		return nil, fmt.Errorf("open log in %s: %w", of.dir(), err)
	}
	l := &Log{
		cfg: cfg, epoch: of, writer: Writer{cfg.Broker, cfg.Epoch, cfg.Nonce},
		wake:     make(chan struct{}, 1),
		finished: make(chan *slot, cfg.InFlight),
		checked:  make(chan error, 1),
		trimWake: make(chan struct{}, 1),
		next:     1,
		window:   cfg.InFlight,
		budget:   newBudget(cfg.MinLinger, cfg.MaxLinger, cfg.BudgetPerMonth),
		adopted:  map[int64]*adopted{},
	}
	for _, r := range cfg.Adopted {
		l.adopted[r.Epoch] = &adopted{Recovered: r}
		l.stats.UncommittedBytes += r.Bytes
	}
	return l, nil
}

func open(ctx context.Context, cfg Config, of series) error {
	switch {
	case cfg.Epoch < 1:
		return fmt.Errorf("%w: %d", wal.ErrEpoch, cfg.Epoch)
	case !cfg.Conditional && cfg.StillMine == nil:
		return errors.New("a store without conditional puts needs a check of the fence")
	}
	for _, r := range cfg.Adopted {
		if r.Broker != cfg.Broker || r.Epoch >= cfg.Epoch {
			return fmt.Errorf("%w: %d of broker %d is adopted", wal.ErrEpoch, r.Epoch, r.Broker)
		}
	}
	if err := blob.CheckKey(of.key(1)); err != nil {
		return err
	}
	taken := ""
	err := patiently(ctx, func(ctx context.Context) error {
		err := cfg.Store.List(ctx, of.dir(), func(i blob.Info) error {
			taken = i.Key
			return wal.ErrEpoch // it ends the listing
		})
		if taken != "" {
			err = nil
		}
		return err
	})
	if taken != "" {
		return fmt.Errorf("%w: %d has %s already", wal.ErrEpoch, cfg.Epoch, taken)
	}
	return err
}

// conditional tells whether the store, as far as it knows itself, creates only.
func conditional(s blob.Store) bool {
	c, ok := blob.As[blob.Conditioner](s)
	return !ok || c.Conditional()
}

// Largest is the number of bytes of the largest record the log takes.
func (l *Log) Largest() int { return l.cfg.MaxRecord }

// Close ends the log without Run, and holds nothing after it.
func (l *Log) Close() error {
	l.end()
	return nil
}

// end makes the log refuse appends and the loop finish.
func (l *Log) end() {
	l.mu.Lock()
	l.ending = true
	l.letAllIn()
	l.mu.Unlock()
	signal(l.wake)
}

// signal makes the reader of c look once more.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it will look anyway
	}
}

// refusal is why the log takes no records; nil when it does. Call with l.mu held.
func (l *Log) refusal() error {
	if l.err == nil && l.ending {
		return wal.ErrClosed
	}
	return l.err
}

// Append implements wal.Log.
func (l *Log) Append(r *wal.Record) (wal.LSN, error) {
	n := size(r)
	if n > int64(l.cfg.MaxRecord) {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", wal.ErrTooLarge, n, l.cfg.MaxRecord)
	}
	lsn, news, err := l.append(r, n)
	if news {
		signal(l.wake)
	}
	return lsn, err
}

// append is Append under the mutex. news: the loop has to look; it knows of a slot
// that is filling.
func (l *Log) append(r *wal.Record, n int64) (_ wal.LSN, news bool, _ error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refusal(); err != nil {
		return 0, false, err
	}
	if l.fill != nil && !l.fits(n) {
		l.close()
		news = true
	}
	if l.fill == nil {
		l.fill, news = &slot{since: time.Now(), first: l.next}, true
		if k := len(l.spare); k > 0 {
			l.fill.recs, l.spare = l.spare[k-1], l.spare[:k-1]
		}
		l.stats.QueuedBytes += headerBytes
	}
	lsn := l.next
	l.next++
	l.fill.add(r)
	l.promised -= int64(r.Reserved)
	l.stats.QueuedBytes += recordHeaderBytes + n
	if l.fill.bytes() >= int64(l.cfg.MaxSlotBytes) {
		l.close()
		news = true
	}
	return lsn, news, nil
}

// fits tells whether a record with n bytes of data goes into the slot that fills.
// A small one may go over its end: slots that are full have the full size, whatever
// the records. Call with l.mu held.
func (l *Log) fits(n int64) bool {
	limit := int64(l.cfg.MaxSlotBytes)
	return n <= limit/8 || l.fill.bytes()+recordHeaderBytes+n <= limit
}

// close makes the slot that fills one to be put as it is. Call with l.mu held.
func (l *Log) close() {
	if l.fill.bytes() > int64(l.cfg.MaxSlotBytes)/2 {
		l.filled = time.Now()
	}
	l.full = append(l.full, l.fill)
	l.fill = nil
}

// Durable implements wal.Log.
func (l *Log) Durable() wal.LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Place implements wal.Log.
func (l *Log) Place(lsn wal.LSN) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return place(l.behind, l.written, lsn)
}

// PlaceEpoch is Place for an epoch that was adopted, or the log's own.
func (l *Log) PlaceEpoch(epoch int64, lsn wal.LSN) int64 {
	if epoch == l.epoch.epoch {
		return l.Place(lsn)
	}
	if a := l.adopted[epoch]; a != nil { // the map never changes
		return a.Recovered.Place(lsn)
	}
	return 0
}

// place is the number of the last slot that lies wholly at or below lsn.
func place(behind placed, slots []placed, lsn wal.LSN) int64 {
	if i := sort.Search(len(slots), func(i int) bool { return slots[i].last > lsn }); i > 0 {
		return slots[i-1].seq
	}
	if behind.last <= lsn {
		return behind.seq
	}
	return 0
}

// Stats are a log's counters since Open, and gauges. Of wal.Stats, Commits are
// slots stored, WrittenBytes their bytes, QueuedBytes those of slots not stored yet, CommitNanos the time from the first
// attempt until a slot was stored, and Segments the slots begun.
type Stats struct {
	wal.Stats
	Puts       int64         // attempts, those for a seal's or foreign slots included
	PutNanos   int64         // spent in them
	Retries    int64         // attempts that were repeated
	Deletes    int64         // slots deleted
	DeleteFail int64         // deletions that failed; each is repeated
	InFlight   int           // gauge: slots started, not yet acknowledged
	Window     int           // gauge: of them there may be so many; less than configured after failures
	Linger     time.Duration // gauge: what the next slot would get
	OverBudget bool          // gauge: the requests saved up are spent
	ToDelete   int64         // gauge: slots waiting to be deleted
}

// Stats implements wal.Log.
func (l *Log) Stats() wal.Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats.Stats
}

// Requests is Stats with what only this log has.
func (l *Log) Requests() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Window = l.window
	s.Linger, s.OverBudget = l.budget.linger(time.Now())
	for _, d := range l.doomed {
		s.ToDelete += d.to - d.from + 1
	}
	return s
}
