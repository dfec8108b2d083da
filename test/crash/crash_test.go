//go:build crash

package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/looptape/looptape/test/rig"
)

const (
	topic      = "crash.records"
	partitions = 4
	producers  = 4
)

// TestKill kills the server with SIGKILL at random moments under load and
// restarts it. In the end every acknowledged record is there once and in
// order, and every case of the loop is right.
func TestKill(t *testing.T) {
	rounds := fromEnv(t, "LOOPTAPE_ROUNDS", 20)
	seed := uint64(fromEnv(t, "LOOPTAPE_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	t.Logf("%d rounds, seed %d", rounds, seed)
	rng := rand.New(rand.NewPCG(seed, 0))

	s := rig.Serve(t)
	if out, err := rig.Run(t, "topic", "create", topic, "--brokers", s.Kafka, "--partitions", strconv.Itoa(partitions)); err != nil {
		t.Fatalf("create: %v\n%s", err, out)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var load sync.WaitGroup
	logs := make([]*ledger, producers)
	for i := range logs {
		logs[i] = &ledger{}
		load.Go(func() { logs[i].produce(ctx, t, s.Kafka, i) })
	}
	var cases caseLoad
	load.Go(func() { cases.send(ctx, s.API) })

	var slowest time.Duration
	for round := range rounds {
		// Anywhere from the first writes after the restart to well into a flush.
		time.Sleep(time.Duration(200+rng.IntN(1300)) * time.Millisecond)
		s.Kill()
		began := time.Now()
		s.Start()
		s.Ready(60 * time.Second)
		took := time.Since(began)
		slowest = max(slowest, took)
		t.Logf("round %d: ready %s after the start, %d records and %d cases acknowledged so far", round+1, took.Round(time.Millisecond), total(logs), cases.acked.Load())
	}
	time.Sleep(time.Second)
	stop()
	load.Wait()
	s.Kill() // what was acknowledged last must survive too
	s.Start()
	s.Ready(60 * time.Second)

	n := verifyRecords(t, s.Kafka, logs)
	cases.verify(t, s.API)
	t.Logf("result: %d kills, %d acknowledged records read back once and in order, %d cases right, slowest restart %s", rounds+1, n, cases.acked.Load(), slowest.Round(time.Millisecond))
}

func fromEnv(t *testing.T, name string, otherwise int) int {
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, v)
	}
	return n
}

// A ledger is what one producer has sent and was told.
type ledger struct {
	mu    sync.Mutex
	acked map[int32]map[int64]int64 // partition -> sequence -> offset
	count atomic.Int64
}

func total(logs []*ledger) (n int64) {
	for _, l := range logs {
		n += l.count.Load()
	}
	return n
}

// produce writes numbered records to every partition with an idempotent
// producer until ctx ends, and then waits for what is under way.
func (l *ledger) produce(ctx context.Context, t *testing.T, broker string, id int) {
	l.acked = map[int32]map[int64]int64{}
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(time.Millisecond), kgo.MaxBufferedRecords(2000),
		kgo.RecordRetries(1<<30), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		t.Error(err)
		return
	}
	defer cl.Close()
	body := strings.Repeat("x", 200)
	for seq := int64(0); ctx.Err() == nil; seq++ {
		p := int32(seq % partitions)
		r := &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d %d %s", id, seq, body)}
		cl.Produce(context.Background(), r, func(r *kgo.Record, err error) {
			if err != nil {
				t.Errorf("producer %d, record %d: %v", id, seq, err)
				return
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.acked[p] == nil {
				l.acked[p] = map[int64]int64{}
			}
			l.acked[p][seq] = r.Offset
			l.count.Add(1)
		})
		if seq%50 == 49 {
			time.Sleep(5 * time.Millisecond)
		}
	}
	flush, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := cl.Flush(flush); err != nil {
		t.Errorf("producer %d: records still unacknowledged at the end: %v", id, err)
	}
}

// verifyRecords reads every partition from its start and holds it against what
// was acknowledged.
func verifyRecords(t *testing.T, broker string, logs []*ledger) int64 {
	t.Helper()
	from := map[int32]kgo.Offset{}
	for p := range int32(partitions) {
		from[p] = kgo.NewOffset().AtStart()
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	seen := make([]map[int64]int, len(logs))
	last := make([]map[int32]int64, len(logs))
	for i := range seen {
		seen[i], last[i] = map[int64]int{}, map[int32]int64{}
	}
	next := map[int32]int64{}
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		f := cl.PollFetches(ctx)
		cancel()
		if errs := f.Errors(); len(errs) > 0 && !errors.Is(errs[0].Err, context.DeadlineExceeded) {
			t.Fatalf("read back: %v", errs[0].Err)
		}
		if f.NumRecords() == 0 {
			break
		}
		for _, r := range f.Records() {
			if r.Offset != next[r.Partition] {
				t.Fatalf("partition %d: offset %d follows %d", r.Partition, r.Offset, next[r.Partition]-1)
			}
			next[r.Partition]++
			var id int
			var seq int64
			if _, err := fmt.Sscanf(string(r.Value[:min(len(r.Value), 40)]), "%d %d", &id, &seq); err != nil || id >= len(logs) {
				t.Fatalf("partition %d offset %d: not a record that was sent", r.Partition, r.Offset)
			}
			if seen[id][seq]++; seen[id][seq] > 1 {
				t.Fatalf("producer %d, record %d: there twice", id, seq)
			}
			if prev, ok := last[id][r.Partition]; ok && prev >= seq {
				t.Fatalf("producer %d: record %d comes after %d in partition %d", id, seq, prev, r.Partition)
			}
			last[id][r.Partition] = seq
			logs[id].mu.Lock()
			if want, ok := logs[id].acked[r.Partition][seq]; ok && want != r.Offset {
				t.Errorf("producer %d, record %d: acknowledged at offset %d, lies at %d", id, seq, want, r.Offset)
			}
			logs[id].mu.Unlock()
		}
	}
	var n int64
	for id, l := range logs {
		for p, byseq := range l.acked {
			for seq := range byseq {
				n++
				if seen[id][seq] == 0 {
					t.Fatalf("producer %d, record %d: acknowledged in partition %d and lost", id, seq, p)
				}
			}
		}
	}
	if n == 0 {
		t.Fatal("no record was acknowledged: the test has shown nothing")
	}
	return n
}

// caseLoad sends requests as events: a retrieval, an answer and feedback that
// knows only the response id, in any order.
type caseLoad struct {
	acked atomic.Int64
}

func (c *caseLoad) send(ctx context.Context, api string) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; ctx.Err() == nil; i++ {
		request, response := requestID(i), fmt.Sprintf("crash-response-%d", i)
		parts := []map[string]any{
			{"type": "request.started", "id": request + "-a", "request": request, "app": "crash", "session": "s", "name": "ask"},
			{"type": "retrieval.completed", "id": request + "-b", "request": request, "app": "crash", "query": "what holds?",
				"documents": []any{map[string]any{"id": "d1", "text": "An acknowledged record is never lost."}}},
			{"type": "response.delivered", "id": request + "-c", "request": request, "response": response, "app": "crash",
				"messages": []any{map[string]any{"role": "assistant", "content": "An acknowledged record is never lost. [d1]"}}},
			{"type": "feedback.recorded", "id": request + "-d", "response": response, "kind": "thumbs", "value": 1},
			{"type": "request.closed", "id": request + "-e", "request": request, "app": "crash", "latency_ms": 12},
		}
		rng.Shuffle(len(parts), func(a, b int) { parts[a], parts[b] = parts[b], parts[a] })
		for _, p := range parts {
			if !postUntilTaken(ctx, api+"/v1/events", p) {
				return // this request stays incomplete and is not counted
			}
		}
		c.acked.Add(1)
	}
}

func requestID(i int) string { return fmt.Sprintf("crash-request-%d", i) }

// postUntilTaken sends an event until the server has taken it: the same id, so
// that a repeat changes nothing.
func postUntilTaken(ctx context.Context, url string, body any) bool {
	b, _ := json.Marshal(body)
	client := &http.Client{Timeout: 10 * time.Second}
	for ctx.Err() == nil {
		res, err := client.Post(url, "application/json", bytes.NewReader(b))
		if err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode < 300 {
				return true
			}
			if res.StatusCode < 500 && res.StatusCode != http.StatusTooManyRequests {
				panic(fmt.Sprintf("an event was refused: %d", res.StatusCode))
			}
		}
		time.Sleep(30 * time.Millisecond)
	}
	return false
}

// wantMetrics are scores that every complete request gets.
var wantMetrics = []string{"grounded", "citation"}

// verify waits until every acknowledged case is complete, and holds each
// against what was sent.
func (c *caseLoad) verify(t *testing.T, api string) {
	t.Helper()
	n := int(c.acked.Load())
	if n == 0 {
		t.Fatal("no case was sent: the test has shown nothing")
	}
	for i := range n {
		rig.Until(t, 60*time.Second, func() error { return checkCase(api, requestID(i)) })
	}
}

func checkCase(api, request string) error {
	res, err := http.Get(api + "/v1/cases/" + request)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %d %s", request, res.StatusCode, b)
	}
	var a struct {
		Case struct {
			Request string
			Has     struct{ Prompt, Retrieval, Response, Feedback int }
			Parts   []struct{ ID string }
			Labels  []struct{ ID string }
			Scores  []struct {
				Metric, Mode, Status string
			}
		}
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Errorf("%s: %w", request, err)
	}
	var ids []string
	for _, p := range a.Case.Parts {
		if strings.HasPrefix(p.ID, request+"-") {
			ids = append(ids, strings.TrimPrefix(p.ID, request+"-"))
		}
	}
	slices.Sort(ids)
	if got := strings.Join(ids, ""); got != "abcde" {
		return fmt.Errorf("%s: its case has the parts %q, want abcde", request, got)
	}
	if h := a.Case.Has; h.Prompt != 1 || h.Retrieval != 1 || h.Response != 2 || h.Feedback != 1 || len(a.Case.Labels) != 1 {
		return fmt.Errorf("%s: its case counts %+v and has %d labels", request, h, len(a.Case.Labels))
	}
	counts := map[string]int{}
	for _, s := range a.Case.Scores {
		counts[s.Metric]++
	}
	for _, m := range wantMetrics {
		if counts[m] != 1 {
			return fmt.Errorf("%s: %d scores of %s, want 1", request, counts[m], m)
		}
	}
	return nil
}
