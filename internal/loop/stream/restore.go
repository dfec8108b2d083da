package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/looptape/looptape/internal/loop/event"
)

// openPartition makes the state of a partition number usable and finds where to
// go on. committed holds the group's offsets (negative: none), start and end the
// bounds of the inputs.
func (p *processor) openPartition(ctx context.Context, part int32, committed map[string]int64, start, end map[string]map[int32]int64) (*checkpoint, error) {
	cp, err := p.store.load(part)
	if err != nil {
		return nil, err
	}
	if cp != nil {
		for topic, at := range cp.Next {
			if e, ok := end[topic][part]; ok && at > e {
				p.c.log.Warn("the local state is ahead of the log, which must have been made anew: starting from nothing",
					"group", p.group, "topic", topic, "partition", part, "position", at, "end", e)
				if err := p.store.wipe(part); err != nil {
					return nil, err
				}
				cp = nil
				break
			}
		}
	}
	lost := cp == nil
	if lost {
		cp = &checkpoint{Restoring: true}
	}
	if p.cfg.Changelog != "" {
		if cp, err = p.restore(ctx, part, cp); err != nil {
			return nil, fmt.Errorf("restore from %s: %w", p.cfg.Changelog, err)
		}
	}
	cp.Restoring = false
	cp.Epoch++
	if cp.Next == nil {
		cp.Next = map[string]int64{}
	}
	maps.DeleteFunc(cp.Next, func(topic string, _ int64) bool { return !slices.Contains(p.cfg.Inputs, topic) })
	for _, topic := range p.cfg.Inputs {
		first, last := start[topic][part], end[topic][part]
		at, known := cp.Next[topic]
		switch {
		case known && at < first:
			p.c.log.Warn("retention removed records before they were processed", "group", p.group, "topic", topic, "partition", part, "position", at, "start", first)
			at = first
		case known && at > last:
			at = first
		case !known && lost && p.cfg.LookBack > 0 && committed[topic] >= 0:
			if at, err = p.lookBack(ctx, event.Position{Topic: topic, Partition: part, Offset: committed[topic]}); err != nil {
				return nil, err
			}
			at = min(max(at, first), last)
		case !known:
			at = first
		}
		cp.Next[topic] = at
	}
	b := p.store.db.NewBatch()
	defer b.Close()
	if err := saveCheckpoint(b, part, cp); err != nil {
		return nil, err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	return cp, nil
}

// lookBack is the first offset appended no more than LookBack before the record
// at a committed position.
func (p *processor) lookBack(ctx context.Context, at event.Position) (int64, error) {
	from := time.Now()
	if at.Offset > 0 {
		// The last record processed; at the start of the log there is none, and
		// retention may have taken it.
		if r, err := p.c.ReadAt(ctx, event.Position{Topic: at.Topic, Partition: at.Partition, Offset: at.Offset - 1}); err == nil {
			from = r.Time
		} else if ctx.Err() != nil {
			return 0, err
		}
	}
	listed, err := p.c.adm.ListOffsetsAfterMilli(ctx, from.Add(-p.cfg.LookBack).UnixMilli(), at.Topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return 0, fmt.Errorf("list offsets of %s by time: %w", at.Topic, err)
	}
	o, ok := listed.Lookup(at.Topic, at.Partition)
	if !ok || o.Offset < 0 {
		return at.Offset, nil
	}
	return min(o.Offset, at.Offset), nil
}

// restoreBatch is how many bytes a restore writes at once.
const restoreBatch = 4 << 20

// restore reads the changelog from where the local state ends to where the log
// ends. It saves its own progress, so that one that is interrupted goes on.
func (p *processor) restore(ctx context.Context, part int32, cp *checkpoint) (*checkpoint, error) {
	first, last, err := p.c.Offsets(ctx, p.cfg.Changelog)
	if err != nil {
		return nil, err
	}
	start, end := first[p.cfg.Changelog][part], last[p.cfg.Changelog][part]
	if cp.Changelog < start || cp.Changelog > end {
		if cp.Changelog > 0 {
			if err := p.store.wipe(part); err != nil {
				return nil, err
			}
			cp = &checkpoint{Restoring: true}
		}
		cp.Changelog = start
	}
	if cp.Changelog == end {
		return cp, nil
	}
	cl, err := kgo.NewClient(p.c.options(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{p.cfg.Changelog: {part: kgo.NewOffset().At(cp.Changelog)}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(),
		kgo.FetchMaxWait(fetchWait),
	)...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	r := restorer{p: p, part: part, cp: *cp, own: cp.Epoch, mine: !cp.Restoring, batch: p.store.db.NewBatch()}
	defer func() { r.batch.Close() }()
	for at := cp.Changelog; at < end; {
		fetches := cl.PollRecords(ctx, maxPoll)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for _, e := range fetches.Errors() {
			return nil, e.Err
		}
		for it := fetches.RecordIter(); !it.Done(); {
			kr := it.Next()
			at = kr.Offset + 1
			if kr.Attrs.IsControl() {
				continue
			}
			p.c.metrics.restored.WithLabelValues(p.group).Inc()
			if err := r.add(kr); err != nil {
				return nil, err
			}
		}
		if err := r.save(at); err != nil {
			return nil, err
		}
	}
	// What is left unread in r.held is this store's own batch that did not reach
	// its checkpoint: it will be processed again.
	return &r.cp, nil
}

// A restorer applies changelog records to the local store.
type restorer struct {
	p     *processor
	part  int32
	cp    checkpoint
	own   int64         // epoch of the local state
	mine  bool          // all so far was written by this very store after its checkpoint
	held  []*kgo.Record // such records: they only count when another owner went on from them
	batch *pebble.Batch
}

func (r *restorer) add(kr *kgo.Record) error {
	rec := fromKafka(kr)
	epoch := decodeEpoch(rec.Header(epochHeader))
	if r.mine {
		if epoch <= r.own {
			if epoch == r.own {
				r.held = append(r.held, kr)
			}
			return nil
		}
		r.mine = false
		r.cp.Restoring = true
		for _, h := range r.held {
			if err := r.apply(h); err != nil {
				return err
			}
		}
		r.held = nil
	}
	if epoch < r.cp.Epoch {
		return nil // an owner that did not know it was replaced
	}
	r.cp.Epoch = epoch
	return r.apply(kr)
}

func (r *restorer) apply(kr *kgo.Record) error {
	if len(kr.Key) == 0 {
		return nil
	}
	switch kr.Key[0] {
	case kindMeta:
		var m checkpoint
		if err := json.Unmarshal(kr.Value, &m); err != nil {
			return fmt.Errorf("marker at %s/%d/%d is damaged: %w", kr.Topic, kr.Partition, kr.Offset, err)
		}
		r.cp.Next, r.cp.Time = m.Next, m.Time
		return nil
	case kindState, kindTimer:
	default:
		return nil
	}
	k := append(storeKey(r.part, 0, nil)[:4], kr.Key...)
	var err error
	if kr.Value == nil {
		err = r.batch.Delete(k, nil)
	} else {
		err = r.batch.Set(k, kr.Value, nil)
	}
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if r.batch.Len() >= restoreBatch {
		return r.flush()
	}
	return nil
}

// save makes progress up to a changelog offset durable enough to go on from.
func (r *restorer) save(at int64) error {
	if r.mine {
		// Nothing was applied. The records of the unfinished batch are passed over
		// for good: the batch is done again and written again behind them.
		r.cp.Changelog = at
		return nil
	}
	r.cp.Changelog = at
	if err := saveCheckpoint(r.batch, r.part, &r.cp); err != nil {
		return err
	}
	return r.flush()
}

func (r *restorer) flush() error {
	if err := r.batch.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := r.batch.Close(); err != nil {
		return err
	}
	r.batch = r.p.store.db.NewBatch()
	return nil
}
