package slots

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// world is one life of a log on a bad network, ended at a put, and its recovery.
type world struct {
	*lateStore
	rand *rand.Rand // of the test
	net  *rand.Rand // of the hook
	mean int        // of 1000 puts, how many go wrong

	mu   sync.Mutex
	dead bool // the process of the log is gone: nothing of it starts any more
}

// die ends the process: its requests under way may still arrive.
func (w *world) die() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = true
}

func (w *world) isDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

// process is the store as the log's process sees it.
type process struct{ *world }

var errDead = errors.New("process is gone")

func (p process) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	if p.isDead() {
		<-ctx.Done()
		return errDead
	}
	err := p.lateStore.Put(ctx, key, body, size)
	if p.isDead() {
		<-ctx.Done() // it never hears
		return errDead
	}
	return err
}

func (p process) GetRange(ctx context.Context, key string, off int64, dst []byte) (int, error) {
	if p.isDead() {
		return 0, errDead
	}
	return p.lateStore.GetRange(ctx, key, off, dst)
}

func (p process) Delete(ctx context.Context, key string) error {
	if p.isDead() {
		return errDead
	}
	return p.lateStore.Delete(ctx, key)
}

// fate of a put, at random.
func (w *world) fate() outcome {
	d := func(n int) time.Duration { return time.Duration(w.net.IntN(n)) * time.Millisecond }
	if w.net.IntN(1000) >= w.mean {
		return outcome{delay: d(120)}
	}
	switch w.net.IntN(5) {
	case 0:
		return outcome{lost: true}
	case 1:
		return outcome{delay: d(100), err: blob.ErrUnknown}
	case 2:
		return outcome{delay: d(5000), answer: 1 + d(100)} // late
	case 3:
		return outcome{delay: d(3000)}
	default:
		return outcome{lost: true, err: errors.New("503 SlowDown")}
	}
}

// TestModel runs random lives. In each, the process dies at the k-th put: before it
// was sent, while it is under way, or after it arrived; or it does not die and is
// only deposed. Whatever it was told to be durable has to be found by the recovery,
// in order, once; also when it goes on as a zombie during and after that.
func TestModel(t *testing.T) {
	lives := 480
	if testing.Short() {
		lives = 160
	}
	for seed := range uint64(lives) {
		synctest.Test(t, func(t *testing.T) { live(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func live(t *testing.T, seed uint64) {
	w := &world{rand: rand.New(rand.NewPCG(seed, 1)), net: rand.New(rand.NewPCG(seed, 2)), mean: []int{100, 500, 0}[seed/160%3]}
	manner := seed % 4            // 0 before it, 1 during, 2 after, 3 not at all
	deathAt := int(seed / 4 % 40) // number of the put
	died := make(chan struct{})
	die := sync.OnceFunc(func() {
		if manner < 3 {
			w.die()
		}
		close(died)
	})
	w.lateStore = &lateStore{Store: blobmem.New()}
	w.hook = func(n int, key string) outcome {
		if !strings.HasPrefix(key, testPrefix+"/1/7/") {
			return outcome{}
		}
		o := w.fate()
		if n != deathAt {
			return o
		}
		switch manner {
		case 0:
			o.lost = true
			die()
		case 1:
			die()
		case 2:
			o.lost = false
			time.AfterFunc(o.delay+time.Millisecond, die)
		case 3:
			die()
		}
		return o
	}
	cfg := testConfig(process{w})
	cfg.MaxSlotBytes = 100 + w.rand.IntN(2000)
	cfg.InFlight = 1 + w.rand.IntN(8)
	cfg.PutTimeout = time.Duration(50+w.rand.IntN(2000)) * time.Millisecond
	cfg.RetryMax = time.Second
	cfg.Rand = func() float64 { return 0.5 }
	l := start(t, cfg)
	appended := 0
	committed := wal.LSN(0) // in the metadata, with the slot
	slot := int64(0)
	add := func() bool {
		if !l.tryAdd(text(appended + 1)) {
			return false
		}
		appended++
		return true
	}
	for running := true; running; {
		for range w.rand.IntN(4) {
			add()
		}
		if d := l.Durable(); w.rand.IntN(8) == 0 && d > committed {
			committed += 1 + wal.LSN(w.rand.IntN(int(d-committed)))
			slot = l.Place(committed)
			if err := l.Trim(committed); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-died:
			running = false
		case <-time.After(time.Duration(w.rand.IntN(60)) * time.Millisecond):
		}
		if appended > 3000 {
			die() // it went too well
		}
	}
	time.Sleep(time.Duration(w.rand.IntN(1500)) * time.Millisecond)
	// From here on nothing is committed or trimmed by the log. Two recoverers race.
	var ends [2]int64
	var wg sync.WaitGroup
	for i := range ends {
		after := time.Duration(w.rand.IntN(200)) * time.Millisecond
		wg.Go(func() {
			time.Sleep(after)
			end, err := Seal(context.Background(), w.lateStore, testPrefix, 1, 7, slot, Writer{Broker: int32(10 + i), Epoch: 1})
			if err != nil {
				t.Error(err)
			}
			ends[i] = end
		})
	}
	more := w.rand.IntN(10)
	for range more { // a zombie still gets requests
		add()
		time.Sleep(30 * time.Millisecond)
	}
	wg.Wait()
	if ends[0] != ends[1] {
		t.Fatalf("the recoverers found ends %v", ends)
	}
	end := ends[0]
	check := func(when string) {
		got, r, err := readAll(w.lateStore, slot+1, end)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		first := r.First
		if len(got) == 0 {
			first = committed + 1
		}
		if first > committed+1 {
			t.Fatalf("%s: LSN %d is committed, recovery begins at %d", when, committed, first)
		}
		for i, data := range got {
			if want := text(int(first) + i); data != want {
				t.Fatalf("%s: LSN %d is %q, want %q", when, int(first)+i, data, want)
			}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if n := len(l.acked); n > 0 && l.acked[n-1] >= first+wal.LSN(len(got)) {
			t.Fatalf("%s: LSN %d is acknowledged, recovery ends at %d", when, l.acked[n-1], int(first)+len(got)-1)
		}
	}
	check("at once")
	time.Sleep(time.Minute)
	add()
	time.Sleep(time.Minute) // everything that was under way has arrived
	check("after a while")
	if again, err := Seal(context.Background(), w.lateStore, testPrefix, 1, 7, slot, taker); err != nil || again != end {
		t.Fatalf("sealed at %d, later at %d, %v", end, again, err)
	}
	if _, err := Sweep(context.Background(), w.lateStore, testPrefix, 1, 7); err != nil {
		t.Fatal(err)
	}
	if keys := w.Keys(); len(keys) != 1 {
		t.Fatalf("left after the sweep: %q", keys)
	}
	err := l.end()
	if manner == 3 && !errors.Is(err, wal.ErrFenced) {
		t.Fatalf("the deposed log ended with %v", err)
	}
	w.wg.Wait()
	l.fates(appended)
	if testing.Verbose() {
		fmt.Printf("seed %d: %d appended, %d acknowledged, committed %d, end %d, stats %+v\n", seed, appended, len(l.acked), committed, end, l.Requests())
	}
}
