package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/meta"
)

// A call is one request over the network: what it is, what it does, and how the
// one who asks is told that the outcome is not known.
type call struct {
	subject string
	weather remote
	writes  bool
	effect  func() error
	refused error // nothing happened
	unknown error // anything may have, or may still
}

// ask runs a call of the process. Every way it goes wrong is one that a network,
// a server under load or a client library's own retry really has.
func (p *process) ask(ctx context.Context, c call) error {
	w := p.node.w
	r := w.dice.about(p.name + " " + c.subject)
	out, back := tail(r, 100*time.Microsecond, c.weather.slow), tail(r, 100*time.Microsecond, c.weather.slow)
	roll, later := r.Float64(), between(r, 0, 8*time.Second)
	happens := func(chance float64) bool {
		roll -= chance
		return roll < 0
	}
	switch {
	case happens(c.weather.refuse):
		w.hist.add("%s %s: refused", p.name, c.subject)
		if err := p.sleep(ctx, out); err != nil {
			return err
		}
		return c.refused
	case happens(c.weather.lose):
		w.hist.add("%s %s: lost", p.name, c.subject)
		if err := p.sleep(ctx, out+back); err != nil {
			return err
		}
		return c.unknown
	case happens(c.weather.unknown):
		w.hist.add("%s %s: done, answer lost", p.name, c.subject)
		if err := p.sleep(ctx, out); err != nil {
			return err
		}
		if err := p.step(func() error { c.effect(); return nil }); err != nil {
			return err
		}
		if err := p.sleep(ctx, back); err != nil {
			return err
		}
		return c.unknown
	case c.writes && happens(c.weather.late):
		w.hist.add("%s %s: will be done %s later, answer lost", p.name, c.subject, later)
		if err := p.step(func() error { w.later(later, c.effect); return nil }); err != nil {
			return err
		}
		if err := p.sleep(ctx, out+back); err != nil {
			return err
		}
		return c.unknown
	}
	repeat := c.writes && happens(c.weather.repeat)
	if err := p.sleep(ctx, out); err != nil {
		if c.writes && !errors.Is(err, errDead) && roll*1000-float64(int(roll*1000)) < 0.5 {
			// It was on its way when the caller gave up.
			p.step(func() error { w.later(later, c.effect); return nil })
		}
		return err
	}
	err := p.step(c.effect)
	if repeat && !errors.Is(err, errDead) {
		w.hist.add("%s %s: done twice", p.name, c.subject)
		err = p.step(c.effect)
	}
	if err2 := p.sleep(ctx, back); err2 != nil {
		return err2
	}
	return err
}

// blobs is the object store as one process reaches it.
type blobs struct {
	blob.Store
	p *process
}

func (b blobs) ask(ctx context.Context, method, key string, writes bool, effect func() error) error {
	weather := b.p.node.w.sky.get()
	c := call{
		subject: method + " " + key, weather: weather.blobs, writes: writes, effect: effect, refused: errRefused, unknown: unknownBlob,
	}
	if writes {
		c.refused = fmt.Errorf("%w: %w", blob.ErrUnknown, errRefused)
	}
	if method == "list" {
		c.weather.slow += weather.list
	}
	if time.Now().UnixNano() < b.p.noBlobs.Load() {
		c.weather = remote{slow: c.weather.slow, lose: 1}
	}
	err := b.p.ask(ctx, c)
	switch {
	case errors.Is(err, errDead):
		return fmt.Errorf("%w: %w", blob.ErrBadKey, err) // not tried again: the process unwinds
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, key, err)
	}
	return nil
}

func (b blobs) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	// The bytes leave the caller here, so that a late effect has them.
	data := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(body, 0, size), data); err != nil {
		return fmt.Errorf("put %s: read body: %w", key, err)
	}
	there := false
	if b.p.node.w.plan.unconditional {
		// The adapter looks first; whoever puts meanwhile is overwritten.
		_, err := b.Store.Stat(ctx, key)
		there = err == nil
	}
	return b.ask(ctx, "put", key, true, func() error {
		if b.p.node.w.plan.unconditional && !there {
			b.Store.Delete(context.Background(), key)
		}
		return b.Store.Put(context.Background(), key, readerAt(data), size)
	})
}

func (b blobs) GetRange(ctx context.Context, key string, off int64, dst []byte) (n int, err error) {
	err = b.ask(ctx, "get", key, false, func() (err error) {
		n, err = b.Store.GetRange(context.Background(), key, off, dst)
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

func (b blobs) Stat(ctx context.Context, key string) (info blob.Info, err error) {
	err = b.ask(ctx, "stat", key, false, func() (err error) {
		info, err = b.Store.Stat(context.Background(), key)
		return err
	})
	return info, err
}

func (b blobs) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	var all []blob.Info
	if err := b.ask(ctx, "list", prefix, false, func() error {
		all = nil
		return b.Store.List(context.Background(), prefix, func(i blob.Info) error { all = append(all, i); return nil })
	}); err != nil {
		return err
	}
	for _, i := range all {
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}

func (b blobs) Delete(ctx context.Context, key string) error {
	return b.ask(ctx, "delete", key, true, func() error {
		b.p.node.w.hist.add("%s deletes %s", b.p.name, key)
		return b.Store.Delete(context.Background(), key)
	})
}

type readerAt []byte

func (r readerAt) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(r)) {
		return 0, io.EOF
	}
	n := copy(b, r[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// metadata is the metadata store as one process reaches it.
type metadata struct {
	meta.Store
	p *process
}

func (m metadata) ask(ctx context.Context, subject string, writes bool, effect func() error) error {
	weather := m.p.node.w.sky.get().meta
	if time.Now().UnixNano() < m.p.noMeta.Load() {
		weather = remote{slow: weather.slow, lose: 1}
	}
	err := m.p.ask(ctx, call{subject: subject, weather: weather, writes: writes, effect: effect, refused: errRefused, unknown: unknownMeta})
	if errors.Is(err, errDead) {
		return fmt.Errorf("%w: %w", meta.ErrClosed, err) // not tried again: the process unwinds
	}
	return err
}

func (m metadata) Get(ctx context.Context, keys ...string) (found map[string]meta.KV, rev int64, err error) {
	err = m.ask(ctx, "get "+keys[0], false, func() (err error) {
		found, rev, err = m.Store.Get(context.Background(), keys...)
		return err
	})
	return found, rev, err
}

func (m metadata) Scan(ctx context.Context, prefix string, fn func(meta.KV) error) (rev int64, err error) {
	var all []meta.KV
	err = m.ask(ctx, "scan "+prefix, false, func() (err error) {
		all = nil
		rev, err = m.Store.Scan(context.Background(), prefix, func(kv meta.KV) error { all = append(all, kv); return nil })
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, kv := range all {
		if err := fn(kv); err != nil {
			return 0, err
		}
	}
	return rev, nil
}

func (m metadata) Txn(ctx context.Context, t meta.Txn) (res meta.TxnResult, err error) {
	subject := "txn"
	if len(t.Then) > 0 {
		subject = "txn " + t.Then[0].Key
	}
	err = m.ask(ctx, subject, true, func() (err error) {
		res, err = m.Store.Txn(context.Background(), t)
		if err == nil && res.OK {
			m.p.node.w.fences.applied(m.p, t, res.Rev)
		}
		return err
	})
	if err != nil {
		return meta.TxnResult{}, err
	}
	return res, nil
}

func (m metadata) Progress(ctx context.Context) error {
	return m.ask(ctx, "progress", false, func() error { return m.Store.Progress(context.Background()) })
}

func (m metadata) Grant(ctx context.Context, ttl time.Duration) (id meta.LeaseID, err error) {
	err = m.ask(ctx, "grant", true, func() (err error) { id, err = m.Store.Grant(context.Background(), ttl); return err })
	return id, err
}

func (m metadata) KeepAlive(ctx context.Context, id meta.LeaseID) (ttl time.Duration, err error) {
	err = m.ask(ctx, "keep alive", true, func() (err error) { ttl, err = m.Store.KeepAlive(context.Background(), id); return err })
	return ttl, err
}

func (m metadata) Revoke(ctx context.Context, id meta.LeaseID) error {
	return m.ask(ctx, "revoke", true, func() error { return m.Store.Revoke(context.Background(), id) })
}

// Watch is behind by what the weather says, and breaks.
func (m metadata) Watch(ctx context.Context, prefix string, after int64) <-chan meta.Batch {
	inner, stop := context.WithCancel(ctx)
	in, out := m.Store.Watch(inner, prefix, after), make(chan meta.Batch)
	w := m.p.node.w
	go func() {
		defer func() {
			stop()
			for range in { // the store's side ends, too
			}
			close(out)
		}()
		for b := range in {
			weather := w.sky.get()
			r := w.dice.about(m.p.name + " watch")
			lag, deaf := tail(r, 10*time.Microsecond, weather.lag), chance(r, weather.deaf)
			if err := m.p.sleep(inner, lag); err != nil {
				b = meta.Batch{Err: fmt.Errorf("%w: %w", meta.ErrClosed, err)}
			} else if deaf && b.Err == nil {
				w.hist.add("%s watch breaks", m.p.name)
				b = meta.Batch{Err: meta.ErrCompacted}
			}
			select {
			case out <- b:
			case <-inner.Done():
				return
			}
			if b.Err != nil {
				return
			}
		}
	}()
	return out
}
