// Package stream is how events travel: the loop's only Kafka client.
//
// It knows nothing of the broker it talks to but the Kafka protocol, and runs
// unchanged on the tape and on Apache Kafka. Three ways through it:
//
//	Client      Dial, EnsureTopics, Produce, ReadAt: topics and records
//	Tail        every record of some topics in one process, the caller keeping
//	            its own positions beside its own state (gate, view)
//	Processor   the work of a consumer group, shared by partition number among
//	            the processes of the group, with keyed state (evaluate, join)
//
// A Processor's cycle, for each partition number by itself:
//
//	poll a bounded batch -> Handler.Process in order -> emit, and wait until every
//	record emitted is acknowledged -> checkpoint {state, timers, input positions}
//	in one durable write -> commit the positions to the group
//
// A crash between any two steps repeats the batch: what it emitted is emitted
// again, its state is untouched. So processing is at least once, and exact for
// handlers whose effects are idempotent by event id: deterministic ids for what
// they emit, state that merges the same event twice into the same state. The
// local store is the truth for positions; the group's committed offsets tell
// others the lag and tell a process that another one went on while it was away.
//
// Failures: what Kafka may cure (a leader moves, a broker restarts) is retried
// inside the client without limit. What it cannot cure (inputs that are not
// co-partitioned, a record too large, a handler's error) ends Run with an error
// that names topic and partition; calling Run again goes on from the last
// checkpoint. Contents of records never appear in errors, logs or metrics.
package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/looptape/looptape/internal/loop/event"
)

// Config says how to reach the cluster.
type Config struct {
	Brokers  []string // seeds, host:port; at least one
	ClientID string   // default "looptape"

	// Dialer replaces the network dial, for a broker in the same process.
	Dialer func(ctx context.Context, network, host string) (net.Conn, error)

	Logger     *slog.Logger          // default: discard
	Registerer prometheus.Registerer // default: the metrics are not registered

	BufferRecords int           // records produced and not yet acknowledged before ProduceAsync blocks; default 10,000
	BufferBytes   int           // the same in bytes; default 64 MiB
	Linger        time.Duration // how long a record may wait for company; default 2 ms
	Options       []kgo.Opt     // more options for every connection: TLS, SASL
}

// MaxRecordBytes is the largest record, key and headers included, that Produce
// takes: Apache Kafka's default for a topic's max.message.bytes, less the head
// of the batch.
const MaxRecordBytes = 1<<20 - 1<<10

// A Client is a connection to the cluster. It is safe for concurrent use; use
// Dial and Close.
type Client struct {
	cfg     Config
	log     *slog.Logger
	kgo     *kgo.Client // produces, and carries single requests
	adm     *kadm.Client
	metrics *metrics
	leaders leaders
}

// ErrGone says that a record is no longer (or not yet) in its partition.
var ErrGone = errors.New("record is not in the log")

// Dial connects to the cluster and waits until one broker answers or ctx ends.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if len(cfg.Brokers) == 0 {
		return nil, errors.New("dial: no brokers given")
	}
	if cfg.ClientID == "" {
		cfg.ClientID = "looptape"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.BufferRecords <= 0 {
		cfg.BufferRecords = 10_000
	}
	if cfg.BufferBytes <= 0 {
		cfg.BufferBytes = 64 << 20
	}
	if cfg.Linger <= 0 {
		cfg.Linger = 2 * time.Millisecond
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("dial: register metrics: %w", err)
	}
	c := &Client{cfg: cfg, log: cfg.Logger, metrics: m}
	c.kgo, err = kgo.NewClient(c.options(
		kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(partitioner)),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.MaxBufferedRecords(cfg.BufferRecords),
		kgo.MaxBufferedBytes(cfg.BufferBytes),
		kgo.ProducerLinger(cfg.Linger),
		kgo.ProducerBatchMaxBytes(1<<20),
		kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.NoCompression()),
	)...)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	if err := pingUntil(ctx, c.kgo); err != nil {
		c.kgo.Close()
		return nil, fmt.Errorf("dial %v: %w", cfg.Brokers, err)
	}
	c.adm = kadm.NewClient(c.kgo)
	return c, nil
}

// Close gives up what is still buffered (Produce has returned for everything
// that is acknowledged) and closes the connections.
func (c *Client) Close() { c.kgo.Close() }

// options are what all connections of the client have in common.
func (c *Client) options(more ...kgo.Opt) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.cfg.Brokers...),
		kgo.ClientID(c.cfg.ClientID),
		kgo.WithLogger(logger{c.log}),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.RetryBackoffFn(backoff),
	}
	if c.cfg.Dialer != nil {
		opts = append(opts, kgo.Dialer(c.cfg.Dialer))
	}
	opts = append(opts, c.cfg.Options...)
	return append(opts, more...)
}

// pingUntil waits for the first broker that answers.
func pingUntil(ctx context.Context, cl *kgo.Client) error {
	for tries := 1; ; tries++ {
		err := cl.Ping(ctx)
		if err == nil {
			return nil
		}
		t := time.NewTimer(backoff(tries))
		select {
		case <-ctx.Done():
			t.Stop()
			return errors.Join(ctx.Err(), err)
		case <-t.C:
		}
	}
}

// backoff is the wait before the n-th retry, from 1: 25 ms doubling to 1.6 s.
func backoff(n int) time.Duration {
	return 25 * time.Millisecond << min(max(n-1, 0), 6)
}

// logger gives what the Kafka client has to say to slog, one level down: its
// information is our debugging.
type logger struct{ log *slog.Logger }

func (l logger) Level() kgo.LogLevel {
	switch ctx := context.Background(); {
	case l.log.Enabled(ctx, slog.LevelDebug):
		return kgo.LogLevelInfo
	case l.log.Enabled(ctx, slog.LevelWarn):
		return kgo.LogLevelWarn
	}
	return kgo.LogLevelError
}

func (l logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	to := slog.LevelDebug
	switch level {
	case kgo.LogLevelError:
		to = slog.LevelError
	case kgo.LogLevelWarn:
		to = slog.LevelWarn
	}
	l.log.Log(context.Background(), to, "kafka: "+msg, keyvals...)
}

// fromKafka gives a consumed record without its client.
func fromKafka(r *kgo.Record) event.Record {
	out := event.Record{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset,
		Time: r.Timestamp.UTC(), Key: r.Key, Value: r.Value,
	}
	if len(r.Headers) > 0 {
		out.Headers = make([]event.Header, len(r.Headers))
		for i, h := range r.Headers {
			out.Headers[i] = event.Header{Key: h.Key, Value: h.Value}
		}
	}
	return out
}
