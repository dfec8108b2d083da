package write

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// input is an object that a job reads: its index, and its pieces through a window
// that is read ahead, since jobs go through objects from front to back.
type input struct {
	visible catalog.Visible
	key     string
	index   *object.Index
	window  window
}

// window is a stretch of an object in memory.
type window struct {
	from  int64
	bytes []byte
}

func (w *window) piece(pos, n int64) ([]byte, bool) {
	if at := pos - w.from; at >= 0 && at+n <= int64(len(w.bytes)) {
		return w.bytes[at : at+n : at+n], true
	}
	return nil, false
}

// gets reads from the object store for background jobs: limited, counted, and
// repeated a few times.
type gets struct {
	store   blob.Store
	limiter *Limiter
	stats   *JobStats
}

// getTries is how often a background read is tried before its job fails; the job
// comes again in a later round.
const getTries = 4

func (g *gets) get(ctx context.Context, key string, off int64, dst []byte) error {
	if err := g.limiter.Wait(ctx, int64(len(dst))); err != nil {
		return err
	}
	var err error
	for try := range getTries {
		if try > 0 {
			if run.Sleep(ctx, 50*time.Millisecond<<try) != nil {
				break
			}
		}
		if _, err = g.store.GetRange(ctx, key, off, dst); err == nil {
			g.stats.read.Add(int64(len(dst)))
			return nil
		}
		if errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrRange) || errors.Is(err, blob.ErrBadKey) {
			break
		}
	}
	return fmt.Errorf("get %d bytes at %d of %s: %w", len(dst), off, key, err)
}

// open reads an object's index.
func (g *gets) open(ctx context.Context, cluster string, v catalog.Visible) (*input, error) {
	o := v.Object
	in := &input{visible: v, key: object.Key(cluster, o.Name)}
	b := make([]byte, o.IndexLen)
	if err := g.get(ctx, in.key, o.IndexPos, b); err != nil {
		return nil, err
	}
	x, err := object.DecodeIndex(b, int(o.Blocks), o.IndexCRC, o.IndexPos)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", o.Name, err)
	}
	in.index = x
	return in, nil
}

// tailWindow is how much is read at once when tails are read one after another.
const tailWindow = 1 << 20

// tail reads a span's tail section.
func (g *gets) tail(ctx context.Context, in *input, p catalog.Partition, base int64) (*object.Tail, error) {
	name := in.visible.Object.Name
	e, ok := in.index.Tail(p.Topic, p.Index, base)
	if !ok {
		return nil, fmt.Errorf("%w: object %s has no tail of %s at %d", object.ErrCorrupt, name, p, base)
	}
	b, ok := in.window.piece(e.Pos, int64(e.Len))
	if !ok {
		// The rest of the tails lies between here and the index.
		n := max(int64(e.Len), min(tailWindow, in.visible.Object.IndexPos-e.Pos))
		in.window = window{e.Pos, make([]byte, n)}
		if err := g.get(ctx, in.key, e.Pos, in.window.bytes); err != nil {
			in.window = window{}
			return nil, err
		}
		b = in.window.bytes[:e.Len]
	}
	if err := e.Check(b); err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	t, err := object.DecodeTail(b)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	return t, nil
}

// block reads one block, checked.
func (g *gets) block(ctx context.Context, in *input, e object.Entry) ([]byte, error) {
	b := make([]byte, e.Len)
	if err := g.get(ctx, in.key, e.Pos, b); err != nil {
		return nil, err
	}
	if err := e.Check(b); err != nil {
		return nil, fmt.Errorf("object %s: %w", in.visible.Object.Name, err)
	}
	return b, nil
}

// maxGap is how much of an input is read for nothing to save a request.
const maxGap = 128 << 10

// joinedReader is the body of a merged object: what was laid out, and blocks that
// are read from the inputs when their turn comes. It holds one window for each
// input and checks every block before it gives a byte of it out.
type joinedReader struct {
	ctx    context.Context
	gets   *gets
	keys   []string // of inputs
	size   int64
	pieces []object.Piece
	order  [][]int // pieces of each input, in order
	window int64   // bytes for each input

	mu      sync.Mutex
	windows []window
	failure error // what went wrong with an input
}

func newJoinedReader(ctx context.Context, g *gets, inputs []*input, j *object.Joined, memory int64) *joinedReader {
	r := &joinedReader{
		ctx: ctx, gets: g, size: j.Size, pieces: j.Pieces, keys: make([]string, len(inputs)),
		order: make([][]int, len(inputs)), windows: make([]window, len(inputs)),
	}
	used := 0
	for i, p := range j.Pieces {
		if p.Bytes == nil {
			if len(r.order[p.Input]) == 0 {
				used++
			}
			r.order[p.Input] = append(r.order[p.Input], i)
		}
	}
	for i, in := range inputs {
		r.keys[i] = in.key
	}
	r.window = max(memory/int64(max(used, 1)), 256<<10)
	return r
}

// ReadAt implements io.ReaderAt.
func (r *joinedReader) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := sort.Search(len(r.pieces), func(i int) bool { return r.pieces[i].At > off }) - 1
	for ; at < len(r.pieces) && n < len(b); at++ {
		p := &r.pieces[at]
		from := off + int64(n) - p.At
		if from >= p.Len {
			break
		}
		bytes := p.Bytes
		if bytes == nil {
			if bytes, err = r.load(at); err != nil {
				r.failure = err
				return n, err
			}
		}
		n += copy(b[n:], bytes[from:])
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// load returns the bytes of a piece of an input, with the pieces after it that
// fit into the window. The lock is held: a put reads its body front to back.
func (r *joinedReader) load(at int) ([]byte, error) {
	p := r.pieces[at]
	w := &r.windows[p.Input]
	if b, ok := w.piece(p.Pos, p.Len); ok {
		return b, nil
	}
	order := r.order[p.Input]
	k := sort.SearchInts(order, at)
	end := p.Pos + p.Len
	last := k
	for _, i := range order[k+1:] {
		q := r.pieces[i]
		if q.Pos < end || q.Pos-end > maxGap || q.Pos+q.Len-p.Pos > r.window {
			break
		}
		end = q.Pos + q.Len
		last++
	}
	n := int(end - p.Pos)
	buf := w.bytes[:0]
	if cap(buf) < n {
		buf = make([]byte, 0, n)
	}
	*w = window{} // nothing, if the read fails
	buf = buf[:n]
	if err := r.gets.get(r.ctx, r.keys[p.Input], p.Pos, buf); err != nil {
		return nil, err
	}
	for _, i := range order[k : last+1] {
		q := r.pieces[i]
		e := object.Entry{Pos: q.Pos, Len: int32(q.Len), CRC: q.CRC}
		if err := e.Check(buf[q.Pos-p.Pos : q.Pos-p.Pos+q.Len]); err != nil {
			return nil, fmt.Errorf("%s: %w", r.keys[p.Input], err)
		}
	}
	*w = window{p.Pos, buf}
	return buf[:p.Len:p.Len], nil
}
