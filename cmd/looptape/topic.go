package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

type topicCmd struct {
	List     topicListCmd     `cmd:"" help:"List topics with their partitions and records."`
	Describe topicDescribeCmd `cmd:"" help:"Show a topic's partitions, offsets and configuration."`
	Create   topicCreateCmd   `cmd:"" help:"Create a topic."`
	Read     topicReadCmd     `cmd:"" help:"Print a topic's records."`
}

func (topicCmd) Help() string {
	return `Examples:
  looptape topic list
  looptape topic create orders --brokers 127.0.0.1:9092 --partitions 6
  looptape topic read llm.decision --values
  looptape topic read llm.case --last 5 --follow`
}

type kafkaFlags struct {
	Brokers []string `help:"Kafka bootstrap addresses." default:"127.0.0.1:9092" env:"LOOPTAPE_BROKERS" placeholder:"HOST:PORT"`
}

func (f kafkaFlags) dial(ctx context.Context, opts ...kgo.Opt) (*kadm.Client, error) {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(f.Brokers...), kgo.ClientID("looptape"), kgo.RetryTimeout(10 * time.Second)}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("--brokers %s: %w", strings.Join(f.Brokers, ","), err)
	}
	ping, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := cl.Ping(ping); err != nil {
		cl.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("no Kafka broker answers at %s: start one with `looptape serve`, or say where it is with --brokers (%w)", strings.Join(f.Brokers, ","), err)
	}
	return kadm.NewClient(cl), nil
}

type topicListCmd struct {
	kafkaFlags
	Internal bool `help:"Internal topics too."`
}

func (c *topicListCmd) Run(ctx context.Context, s *streams) error {
	adm, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer adm.Close()
	topics, err := adm.ListTopicsWithInternal(ctx)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	starts, err := adm.ListStartOffsets(ctx, topics.Names()...)
	if err != nil {
		return fmt.Errorf("list offsets: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, topics.Names()...)
	if err != nil {
		return fmt.Errorf("list offsets: %w", err)
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOPIC\tPARTITIONS\tRECORDS")
	for _, t := range topics.Sorted() {
		if t.IsInternal && !c.Internal {
			continue
		}
		var n int64
		for p := range t.Partitions {
			start, _ := starts.Lookup(t.Topic, p)
			end, _ := ends.Lookup(t.Topic, p)
			n += end.Offset - start.Offset
		}
		fmt.Fprintf(w, "%s\t%d\t%d\n", t.Topic, len(t.Partitions), n)
	}
	return w.Flush()
}

type topicDescribeCmd struct {
	kafkaFlags
	Name string `arg:"" help:"Topic."`
}

func (c *topicDescribeCmd) Run(ctx context.Context, s *streams) error {
	adm, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer adm.Close()
	topics, err := adm.ListTopics(ctx, c.Name)
	if err != nil {
		return fmt.Errorf("describe %s: %w", c.Name, err)
	}
	t := topics[c.Name]
	if t.Err != nil {
		return topicError(c.Name, t.Err)
	}
	starts, err := adm.ListStartOffsets(ctx, c.Name)
	if err != nil {
		return fmt.Errorf("list offsets: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, c.Name)
	if err != nil {
		return fmt.Errorf("list offsets: %w", err)
	}
	fmt.Fprintf(s.out, "topic %s, id %s\n\n", t.Topic, t.ID)
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PARTITION\tLEADER\tSTART\tEND")
	for _, p := range t.Partitions.Sorted() {
		start, _ := starts.Lookup(t.Topic, p.Partition)
		end, _ := ends.Lookup(t.Topic, p.Partition)
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\n", p.Partition, p.Leader, start.Offset, end.Offset)
	}
	configs, err := adm.DescribeTopicConfigs(ctx, c.Name)
	if err != nil {
		return fmt.Errorf("describe the configuration of %s: %w", c.Name, err)
	}
	fmt.Fprintln(w, "\nCONFIG\tVALUE\tSOURCE")
	for _, r := range configs {
		for _, cfg := range r.Configs {
			fmt.Fprintf(w, "%s\t%s\t%s\n", cfg.Key, cfg.MaybeValue(), strings.ToLower(cfg.Source.String()))
		}
	}
	return w.Flush()
}

type topicCreateCmd struct {
	kafkaFlags
	Name       string            `arg:"" help:"Topic."`
	Partitions int32             `help:"Number of partitions." default:"1"`
	Config     map[string]string `help:"A topic configuration, key=value; repeatable." placeholder:"KEY=VALUE"`
}

func (c *topicCreateCmd) Run(ctx context.Context, s *streams) error {
	if c.Partitions < 1 {
		return fmt.Errorf("--partitions %d: a topic has at least one", c.Partitions)
	}
	adm, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer adm.Close()
	configs := map[string]*string{}
	for k, v := range c.Config {
		configs[k] = &v
	}
	if _, err := adm.CreateTopic(ctx, c.Partitions, -1, configs, c.Name); err != nil {
		return topicError(c.Name, err)
	}
	fmt.Fprintf(s.out, "created %s with %d partitions\n", c.Name, c.Partitions)
	return nil
}

// topicError adds what to do to the errors that a user meets.
func topicError(name string, err error) error {
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("there is no topic %s: `looptape topic list` shows those there are", name)
	case errors.Is(err, kerr.TopicAlreadyExists):
		return fmt.Errorf("topic %s exists already: `looptape topic describe %s` shows it", name, name)
	}
	return fmt.Errorf("topic %s: %w", name, err)
}

type topicReadCmd struct {
	kafkaFlags
	Name      string `arg:"" help:"Topic."`
	Partition int32  `help:"One partition only; -1 reads all." default:"-1"`
	Last      int64  `help:"Begin this many records before the end of each partition; -1 begins at its start." default:"-1"`
	Max       int64  `help:"Stop after this many records; 0 has no limit." default:"0"`
	Follow    bool   `help:"Wait for new records at the end instead of stopping." short:"f"`
	Values    bool   `help:"Print only the values, one a line."`
}

func (c *topicReadCmd) Run(ctx context.Context, s *streams) error {
	adm, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer adm.Close()
	topics, err := adm.ListTopics(ctx, c.Name)
	if err != nil {
		return fmt.Errorf("read %s: %w", c.Name, err)
	}
	if err := topics[c.Name].Err; err != nil {
		return topicError(c.Name, err)
	}
	starts, err := adm.ListStartOffsets(ctx, c.Name)
	if err != nil {
		return fmt.Errorf("list offsets: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, c.Name)
	if err != nil {
		return fmt.Errorf("list offsets: %w", err)
	}
	from, left := map[int32]kgo.Offset{}, map[int32]int64{}
	for p := range topics[c.Name].Partitions {
		if c.Partition >= 0 && p != c.Partition {
			continue
		}
		start, _ := starts.Lookup(c.Name, p)
		end, _ := ends.Lookup(c.Name, p)
		at := start.Offset
		if c.Last >= 0 {
			at = max(at, end.Offset-c.Last)
		}
		if c.Follow || at < end.Offset {
			from[p] = kgo.NewOffset().At(at)
			left[p] = end.Offset
		}
	}
	if c.Partition >= 0 {
		if _, ok := topics[c.Name].Partitions[c.Partition]; !ok {
			return fmt.Errorf("topic %s has no partition %d: it has %d", c.Name, c.Partition, len(topics[c.Name].Partitions))
		}
	}
	if len(from) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers...), kgo.ClientID("looptape"), kgo.FetchMaxWait(time.Second),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{c.Name: from}))
	if err != nil {
		return err
	}
	defer cl.Close()
	var printed int64
	for len(left) > 0 || c.Follow {
		poll, cancel := ctx, func() {}
		if !c.Follow { // the last offsets may hold no record (compaction, markers): quiet is the end
			poll, cancel = context.WithTimeout(ctx, quietEnd)
		}
		fetches := cl.PollFetches(poll)
		quiet := poll.Err() != nil && fetches.NumRecords() == 0
		cancel()
		if ctx.Err() != nil || quiet {
			return nil
		}
		for _, e := range fetches.Errors() {
			return fmt.Errorf("read %s/%d: %w", e.Topic, e.Partition, e.Err)
		}
		for _, r := range fetches.Records() {
			end, wanted := left[r.Partition]
			if !c.Follow && (!wanted || r.Offset >= end) {
				delete(left, r.Partition)
				continue
			}
			if err := c.print(s, r); err != nil {
				return err
			}
			if printed++; c.Max > 0 && printed == c.Max {
				return nil
			}
			if !c.Follow && r.Offset == end-1 {
				delete(left, r.Partition)
			}
		}
	}
	return nil
}

// quietEnd is how long a read without --follow waits for a record before its
// end is taken to be reached.
const quietEnd = 3 * time.Second

// print writes one record as a line of JSON, or its value only.
func (c *topicReadCmd) print(s *streams, r *kgo.Record) error {
	if c.Values {
		_, err := fmt.Fprintf(s.out, "%s\n", r.Value)
		return err
	}
	headers := map[string]string{}
	for _, h := range r.Headers {
		headers[h.Key] = text(h.Value)
	}
	out := struct {
		Partition int32             `json:"partition"`
		Offset    int64             `json:"offset"`
		Time      time.Time         `json:"time"`
		Key       string            `json:"key,omitempty"`
		Headers   map[string]string `json:"headers,omitempty"`
		Value     any               `json:"value"`
	}{r.Partition, r.Offset, r.Timestamp.UTC(), text(r.Key), headers, nil}
	switch {
	case r.Value == nil:
	case json.Valid(r.Value):
		out.Value = json.RawMessage(r.Value)
	default:
		out.Value = text(r.Value)
	}
	b, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("record %d/%d: %w", r.Partition, r.Offset, err)
	}
	_, err = fmt.Fprintf(s.out, "%s\n", b)
	return err
}

// text shows bytes as a string when they are one, quoted otherwise.
func text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return strconv.QuoteToASCII(string(b))
}
