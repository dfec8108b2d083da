package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/loop/event"
)

// TailConfig says what to follow and where to go on.
type TailConfig struct {
	// Name is the consumer group under which positions are committed, so that
	// everyone sees the lag. They are never read back: From decides.
	Name   string
	Topics []string

	// From holds the next offset to read of each partition. One that is missing
	// starts at the beginning of the log; so does one that retention has overtaken
	// or that lies beyond the end (the topic was made anew), with a warning.
	From map[string]map[int32]int64

	// Batch gets records in order of offset within each partition, and the
	// positions after them: next holds every partition that Tail has read so far
	// or that From named. It is called from one goroutine and owns its arguments.
	// When it returns nil, records and positions must be as durable as the caller
	// wants them: Tail does not deliver them again. Its error ends Tail.
	Batch func(ctx context.Context, recs []event.Record, next map[string]map[int32]int64) error

	// CaughtUp, if set, is called once: when everything that was in the topics when
	// Tail started has been given to Batch.
	CaughtUp func()

	MaxRecords int // in one batch; default 2,000
	MaxBytes   int // of keys, values and headers in one batch, save that it holds at least one record; default 4 MiB
}

// commitEvery is how often positions are committed for others to see.
const commitEvery = time.Second

// Tail gives every record of all partitions of some topics to one callback, until
// ctx ends (nil) or something fails.
func (c *Client) Tail(ctx context.Context, cfg TailConfig) error {
	if cfg.MaxRecords <= 0 {
		cfg.MaxRecords = 2000
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 4 << 20
	}
	t := &tail{c: c, cfg: cfg, next: map[string]map[int32]int64{}, lag: newLagMeter(cfg.Name, c.metrics), fresh: make(chan map[string]map[int32]int64, 1)}
	if err := t.run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("tail %s: %w", cfg.Name, err)
	}
	return nil
}

type tail struct {
	c       *Client
	cfg     TailConfig
	next    map[string]map[int32]int64 // positions after the last batch
	until   map[topicPartition]int64   // what is still to be read before the tail has caught up
	markers map[topicPartition]int64   // offsets after markers of the poll being delivered
	lag     *lagMeter
	fresh   chan map[string]map[int32]int64 // newest positions for the committer; older ones are replaced
}

func (t *tail) run(ctx context.Context) error {
	have, err := t.c.awaitTopics(ctx, t.cfg.Topics)
	if err != nil {
		return err
	}
	start, end, err := t.c.Offsets(ctx, t.cfg.Topics...)
	if err != nil {
		return err
	}
	from := map[string]map[int32]kgo.Offset{}
	t.until = map[topicPartition]int64{}
	for topic, n := range have {
		from[topic], t.next[topic] = map[int32]kgo.Offset{}, map[int32]int64{}
		for p := range n {
			first, last := start[topic][p], end[topic][p]
			at, given := t.cfg.From[topic][p]
			if given && (at < first || at > last) {
				t.c.log.Warn("position is not in the log any more: reading from its start",
					"group", t.cfg.Name, "topic", topic, "partition", p, "position", at, "start", first, "end", last)
			}
			if !given || at < first || at > last {
				at = first
			}
			t.next[topic][p] = at
			from[topic][p] = kgo.NewOffset().At(at)
			t.lag.processed(topic, p, at, time.Time{})
			t.lag.ended(topic, p, last)
			if at < last {
				t.until[topicPartition{topic, p}] = last
			}
		}
	}
	cl, err := kgo.NewClient(t.c.options(
		kgo.ConsumePartitions(from),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // so that a log that ends with a transaction's marker has an end that is reached
		kgo.FetchMaxBytes(16<<20),
		kgo.FetchMaxPartitionBytes(1<<20),
		kgo.FetchMaxWait(500*time.Millisecond),
	)...)
	if err != nil {
		return err
	}
	defer cl.Close()
	g := run.New(ctx)
	g.Go("follow", func(ctx context.Context) error { return t.follow(ctx, cl) })
	g.Go("commit", t.commit)
	return g.Wait()
}

func (t *tail) follow(ctx context.Context, cl *kgo.Client) error {
	t.checkCaughtUp()
	for {
		fetches := cl.PollRecords(ctx, t.cfg.MaxRecords)
		if err := ctx.Err(); err != nil {
			return err
		}
		var failed error
		fetches.EachError(func(topic string, p int32, err error) {
			failed = errors.Join(failed, fmt.Errorf("fetch %s/%d: %w", topic, p, err))
		})
		var (
			batch []event.Record
			size  int
		)
		flush := func() error {
			if len(batch) == 0 {
				return nil
			}
			recs := batch
			batch, size = nil, 0
			return t.deliver(ctx, recs)
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			t.lag.ended(p.Topic, p.Partition, p.HighWatermark)
			for _, r := range p.Records {
				if r.Attrs.IsControl() {
					t.skip(topicPartition{r.Topic, r.Partition}, r.Offset+1)
					continue
				}
				n := recordBytes(r)
				if size+n > t.cfg.MaxBytes && failed == nil {
					failed = flush()
				}
				if failed != nil {
					return
				}
				batch, size = append(batch, fromKafka(r)), size+n
			}
		})
		if failed == nil {
			failed = flush()
		}
		if failed != nil {
			return failed
		}
		t.passMarkers()
		t.lag.publish(time.Now())
	}
}

// deliver hands one batch over; the positions count only when it was taken.
func (t *tail) deliver(ctx context.Context, recs []event.Record) error {
	next := clonePositions(t.next)
	newest := map[topicPartition]time.Time{}
	counts := map[string]int{}
	for i := range recs {
		r := &recs[i]
		if next[r.Topic] == nil {
			next[r.Topic] = map[int32]int64{}
		}
		next[r.Topic][r.Partition] = r.Offset + 1
		newest[topicPartition{r.Topic, r.Partition}] = r.Time
		counts[r.Topic]++
	}
	if err := t.cfg.Batch(ctx, recs, clonePositions(next)); err != nil {
		return err
	}
	t.next = next
	for tp, at := range newest {
		t.lag.processed(tp.topic, tp.partition, next[tp.topic][tp.partition], at)
	}
	for topic, n := range counts {
		t.c.metrics.consumed.WithLabelValues(t.cfg.Name, topic).Add(float64(n))
	}
	select {
	case <-t.fresh:
	default:
	}
	t.fresh <- clonePositions(next)
	t.checkCaughtUp()
	return nil
}

// skip notes the offset after a transaction's marker.
func (t *tail) skip(tp topicPartition, next int64) {
	if t.markers == nil {
		t.markers = map[topicPartition]int64{}
	}
	t.markers[tp] = next
}

// passMarkers moves positions over markers once the records before them have been
// delivered. The caller learns of it with its next batch; read again, a marker
// costs nothing.
func (t *tail) passMarkers() {
	for tp, next := range t.markers {
		if next > t.next[tp.topic][tp.partition] {
			t.next[tp.topic][tp.partition] = next
			t.lag.processed(tp.topic, tp.partition, next, time.Time{})
		}
	}
	t.markers = nil
	t.checkCaughtUp()
}

// checkCaughtUp reports once that the tail has seen what there was at its start.
func (t *tail) checkCaughtUp() {
	if t.until == nil {
		return
	}
	for tp, end := range t.until {
		if t.next[tp.topic][tp.partition] >= end {
			delete(t.until, tp)
		}
	}
	if len(t.until) == 0 {
		t.until = nil
		if t.cfg.CaughtUp != nil {
			t.cfg.CaughtUp()
		}
	}
}

// commit publishes positions under the tail's name, at most once a second and
// once at the end. A failure to do so is no failure of the tail.
func (t *tail) commit(ctx context.Context) error {
	if t.cfg.Name == "" {
		<-ctx.Done()
		return nil
	}
	send := func(ctx context.Context, next map[string]map[int32]int64) {
		if err := t.c.commitPositions(ctx, t.cfg.Name, next); err != nil && ctx.Err() == nil {
			t.c.log.Warn("commit of positions failed", "group", t.cfg.Name, "error", err)
		}
	}
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			select {
			case next := <-t.fresh:
				last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
				defer cancel()
				send(last, next)
			default:
			}
			return nil
		case <-tick.C:
			select {
			case next := <-t.fresh:
				send(ctx, next)
			default:
			}
		}
	}
}

// commitPositions commits offsets to a group without members.
func (c *Client) commitPositions(ctx context.Context, group string, next map[string]map[int32]int64) error {
	var os kadm.Offsets
	for topic, ps := range next {
		for p, at := range ps {
			os.AddOffset(topic, p, at, -1)
		}
	}
	resp, err := c.adm.CommitOffsets(ctx, group, os)
	if err != nil {
		return err
	}
	return resp.Error()
}

func clonePositions(m map[string]map[int32]int64) map[string]map[int32]int64 {
	out := make(map[string]map[int32]int64, len(m))
	for topic, ps := range m {
		out[topic] = maps.Clone(ps)
	}
	return out
}

func recordBytes(r *kgo.Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}
