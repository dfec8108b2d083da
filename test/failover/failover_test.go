//go:build crash

package failover

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/test/rig"
)

// maxGap is how long acknowledgements may stay away when a broker crashes.
const maxGap = 10 * time.Second

// pair is two brokers on one bucket and one etcd.
type pair struct {
	t       *testing.T
	etcd    *rig.EtcdServer
	brokers map[int32]*rig.Server
	admin   *kadm.Client
	client  *kgo.Client
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, etcd: rig.Etcd(t), brokers: map[int32]*rig.Server{}}
	bucket, etcd := rig.S3(t).URL("tape", "failover"), p.etcd.URL("failover")
	for id := range int32(2) {
		id++
		s := rig.Prepare(t, "serve", "--no-loop", "--node-id", fmt.Sprint(id), "--blob", bucket, "--meta", etcd, "--log-level", "info")
		s.Start()
		s.Ready(60 * time.Second)
		p.brokers[id] = s
	}
	p.client = p.newClient()
	p.admin = kadm.NewClient(p.client)
	if _, err := p.admin.CreateTopic(context.Background(), partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pair) seeds() []string { return []string{p.brokers[1].Kafka, p.brokers[2].Kafka} }

func (p *pair) newClient(opts ...kgo.Opt) *kgo.Client {
	p.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(p.seeds()...), kgo.MetadataMinAge(100 * time.Millisecond), kgo.MetadataMaxAge(2 * time.Second),
		kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
	}, opts...)...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(cl.Close)
	return cl
}

// leader is the broker that leads the topic: partitions are not spread yet.
func (p *pair) leader() int32 {
	p.t.Helper()
	var id int32
	rig.Until(p.t, 30*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		m, err := p.admin.Metadata(ctx, topic)
		if err != nil {
			return err
		}
		if len(m.Brokers) != len(p.brokers) {
			return fmt.Errorf("%d brokers are named", len(m.Brokers))
		}
		for _, part := range m.Topics[topic].Partitions {
			if part.Err != nil || part.Leader < 1 {
				return fmt.Errorf("partition %d has leader %d: %v", part.Partition, part.Leader, part.Err)
			}
			id = part.Leader
		}
		return nil
	})
	return id
}

func (p *pair) other(id int32) *rig.Server { return p.brokers[3-id] }

// The leader dies by SIGKILL under load, several times. The other broker
// acknowledges within seconds, consumer groups go on, and in the end every
// acknowledged record is there once and in order.
func TestKillTheLeader(t *testing.T) {
	rounds := fromEnv(t, "LOOPTAPE_FAILOVERS", 4)
	p := newPair(t)
	load := startLoad(t, p)
	group := startGroup(t, p)
	var worst time.Duration
	for round := range rounds {
		before := load.total()
		rig.Until(t, 30*time.Second, func() error {
			if load.total() < before+500 {
				return fmt.Errorf("%d records acknowledged", load.total()-before)
			}
			return nil
		})
		id := p.leader()
		p.brokers[id].Kill()
		load.mark() // from here on only the other can acknowledge what is sent
		gap := load.awaitAll(t, 60*time.Second)
		worst = max(worst, gap)
		t.Logf("round %d: broker %d killed, no acknowledgement for %s, %d records acknowledged so far", round+1, id, gap.Round(time.Millisecond), load.total())
		if gap > maxGap {
			t.Errorf("round %d: no acknowledgement for %s, at most %s are allowed\n%s", round+1, gap, maxGap, p.other(id).Output())
		}
		p.brokers[id].Start()
		p.brokers[id].Ready(60 * time.Second)
	}
	load.stop(t)
	n := load.verify(t, p)
	group.verify(t, load)
	t.Logf("result: %d kills, %d acknowledged records read back once and in order, longest gap %s", rounds, n, worst.Round(time.Millisecond))
}

// The leader is stopped for longer than its lease, with requests in its sockets,
// and goes on after the other broker took over. It must not acknowledge, and must
// end and say that it was fenced (traps 1 and 14).
func TestZombieLeader(t *testing.T) {
	rounds := fromEnv(t, "LOOPTAPE_ZOMBIES", 5)
	p := newPair(t)
	load := startLoad(t, p)
	for round := range rounds {
		before := load.total()
		rig.Until(t, 30*time.Second, func() error {
			if load.total() < before+200 {
				return fmt.Errorf("%d records acknowledged", load.total()-before)
			}
			return nil
		})
		id := p.leader()
		zombie := p.brokers[id]
		direct, err := kgo.NewClient(kgo.SeedBrokers(zombie.Kafka), kgo.RequestRetries(0))
		if err != nil {
			t.Fatal(err)
		}
		if err := direct.Ping(context.Background()); err != nil {
			t.Fatal(err)
		}
		details, err := p.admin.ListTopics(context.Background(), topic)
		if err != nil {
			t.Fatal(err)
		}
		signal(t, zombie, syscall.SIGSTOP)
		load.mark()
		// It finds these in its sockets when it goes on.
		var late sync.WaitGroup
		for i := range int32(partitions) {
			late.Go(func() { mustNotAck(t, direct, id, details[topic].ID, i) })
		}
		gap := load.awaitAll(t, 60*time.Second)
		signal(t, zombie, syscall.SIGCONT)
		if err := zombie.Wait(20 * time.Second); err == nil {
			t.Error("the zombie ended without an error")
		}
		if out := zombie.Output(); !strings.Contains(out, "fenced") {
			t.Errorf("the zombie does not say that it was fenced:\n%s", out)
		}
		late.Wait()
		direct.Close()
		t.Logf("round %d: broker %d stopped, no acknowledgement for %s; it ended as it went on", round+1, id, gap.Round(time.Millisecond))
		zombie.Start()
		zombie.Ready(60 * time.Second)
		if t.Failed() {
			break
		}
	}
	load.stop(t)
	n := load.verify(t, p)
	t.Logf("result: %d zombies, %d acknowledged records read back once and in order", rounds, n)
}

// etcd is away for longer than the leases. Produce goes on meanwhile, both brokers
// are there afterwards, and nobody was fenced.
func TestEtcdAway(t *testing.T) {
	p := newPair(t)
	load := startLoad(t, p)
	time.Sleep(time.Second)
	p.etcd.Pause()
	time.Sleep(2 * time.Second)
	load.mark()
	if gap := load.awaitAll(t, 20*time.Second); gap > 5*time.Second {
		t.Errorf("no acknowledgement for %s while etcd is away", gap)
	}
	time.Sleep(8 * time.Second)
	p.etcd.Resume()
	load.mark()
	gap := load.awaitAll(t, 60*time.Second)
	time.Sleep(3 * time.Second)
	p.leader() // both are named
	for id, s := range p.brokers {
		select {
		case <-s.Done():
			t.Errorf("broker %d has ended:\n%s", id, s.Output())
		default:
		}
	}
	load.stop(t)
	n := load.verify(t, p)
	t.Logf("result: etcd away for 10 s, acknowledged again %s after it came back, %d records read back once and in order", gap.Round(time.Millisecond), n)
}

func signal(t *testing.T, s *rig.Server, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(-s.PID(), sig); err != nil {
		t.Fatal(err)
	}
}

// mustNotAck sends a record to a broker that is stopped, past all metadata.
func mustNotAck(t *testing.T, cl *kgo.Client, broker int32, id kadm.TopicID, index int32) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 60_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, id
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition = index
	rp.Records = batch.Build(batch.Plain, batch.KV{Timestamp: time.Now().UnixMilli(), Value: []byte(zombieValue)})
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	resp, err := cl.Broker(int(broker)).Request(ctx, req)
	if err != nil {
		return // the connection ended: that is no acknowledgement
	}
	for _, rt := range resp.(*kmsg.ProduceResponse).Topics {
		for _, rp := range rt.Partitions {
			if rp.ErrorCode == 0 {
				t.Errorf("the zombie acknowledged partition %d at offset %d", rp.Partition, rp.BaseOffset)
			} else {
				t.Logf("the zombie answered %v", kerr.ErrorForCode(rp.ErrorCode))
			}
		}
	}
}

// The leader of a thousand partitions dies; all of them acknowledge again in
// time (P17). LOOPTAPE_PARTITIONS sets another number.
func TestKillLeaderOfManyPartitions(t *testing.T) {
	n := fromEnv(t, "LOOPTAPE_PARTITIONS", 1000)
	p := newPair(t)
	const name = "failover.many"
	if _, err := p.admin.CreateTopic(context.Background(), int32(n), 1, nil, name); err != nil {
		t.Fatal(err)
	}
	cl := p.newClient(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordRetries(1<<30), kgo.MaxBufferedRecords(2*n))
	round := func(value string) time.Duration {
		began := time.Now()
		var records []*kgo.Record
		for i := range n {
			records = append(records, &kgo.Record{Topic: name, Partition: int32(i), Value: []byte(value)})
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	t.Logf("%d partitions written to in %s", n, round("before").Round(time.Millisecond))
	p.brokers[p.leader()].Kill()
	gap := round("after")
	t.Logf("result: %d partitions acknowledge again %s after the leader was killed", n, gap.Round(time.Millisecond))
	if n <= 1000 && gap > maxGap {
		t.Errorf("%s, at most %s are allowed", gap, maxGap)
	}
	ends, err := p.admin.ListEndOffsets(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	wrong := 0
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err != nil || o.Offset != 2 {
			wrong++
		}
	})
	if wrong > 0 {
		t.Errorf("%d of %d partitions have another end than 2", wrong, n)
	}
}
