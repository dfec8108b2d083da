package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A TopicSpec is what a topic should be.
type TopicSpec struct {
	Name        string
	Partitions  int32             // 0: the broker's default for a new topic, anything for an existing one
	Replication int16             // 0 or -1: the broker's default
	Config      map[string]string // Kafka's names and forms; set when the topic is created, never changed afterwards
}

// ErrPartitions says that a topic exists with another number of partitions than
// it must have. Adding partitions moves keys to other partitions, so it is never
// done silently.
var ErrPartitions = errors.New("topic has another number of partitions")

// EnsureTopics creates the topics that are missing and returns their names when
// every partition of every topic has a leader that the client knows. An existing
// topic keeps its configuration; one with another number of partitions than asked
// for is ErrPartitions.
func (c *Client) EnsureTopics(ctx context.Context, specs []TopicSpec) (created []string, err error) {
	names := make([]string, len(specs))
	for i, s := range specs {
		names[i] = s.Name
	}
	have, err := c.partitions(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("ensure topics: %w", err)
	}
	req := kmsg.NewCreateTopicsRequest()
	req.TimeoutMillis = 15_000
	for _, s := range specs {
		if _, ok := have[s.Name]; ok {
			continue
		}
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = s.Name, s.Partitions, s.Replication
		if t.NumPartitions <= 0 {
			t.NumPartitions = -1
		}
		if t.ReplicationFactor <= 0 {
			t.ReplicationFactor = -1
		}
		for _, k := range slices.Sorted(maps.Keys(s.Config)) {
			v := s.Config[k]
			conf := kmsg.NewCreateTopicsRequestTopicConfig()
			conf.Name, conf.Value = k, &v
			t.Configs = append(t.Configs, conf)
		}
		req.Topics = append(req.Topics, t)
	}
	if len(req.Topics) > 0 {
		resp, err := req.RequestWith(ctx, c.kgo)
		if err != nil {
			return nil, fmt.Errorf("create topics: %w", err)
		}
		var errs []error
		for _, t := range resp.Topics {
			switch err := kerr.ErrorForCode(t.ErrorCode); {
			case err == nil:
				created = append(created, t.Topic)
			case errors.Is(err, kerr.TopicAlreadyExists): // another process was faster
			default:
				if t.ErrorMessage != nil && *t.ErrorMessage != "" {
					err = fmt.Errorf("%w: %s", err, *t.ErrorMessage)
				}
				errs = append(errs, fmt.Errorf("create topic %s: %w", t.Topic, err))
			}
		}
		if len(errs) > 0 {
			return created, errors.Join(errs...)
		}
	}
	if have, err = c.awaitTopics(ctx, names); err != nil {
		return created, err
	}
	var errs []error
	for _, s := range specs {
		if n := have[s.Name]; s.Partitions > 0 && n != s.Partitions {
			errs = append(errs, fmt.Errorf("topic %s has %d partitions and must have %d: %w; set the contract's partition count to what the cluster has, or move the topic's records to a new topic",
				s.Name, n, s.Partitions, ErrPartitions))
		}
	}
	return created, errors.Join(errs...)
}

// awaitTopics waits until all topics are usable.
func (c *Client) awaitTopics(ctx context.Context, names []string) (map[string]int32, error) {
	for tries := 1; ; tries++ {
		have, err := c.partitions(ctx, names...)
		if err == nil && len(have) == len(slices.Compact(slices.Sorted(slices.Values(names)))) {
			return have, nil
		}
		t := time.NewTimer(backoff(tries))
		select {
		case <-ctx.Done():
			t.Stop()
			var missing []string
			for _, n := range names {
				if _, ok := have[n]; !ok {
					missing = append(missing, n)
				}
			}
			return nil, fmt.Errorf("wait for topics %s: %w", strings.Join(missing, ", "), errors.Join(ctx.Err(), err))
		case <-t.C:
		}
	}
}

// partitions is the number of partitions of those topics that exist with a
// leader for each. A topic that does not exist is left out.
func (c *Client) partitions(ctx context.Context, names ...string) (map[string]int32, error) {
	if len(names) == 0 {
		return map[string]int32{}, nil
	}
	md, err := c.adm.Metadata(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	out := make(map[string]int32, len(names))
	var errs []error
	for _, t := range md.Topics {
		switch {
		case errors.Is(t.Err, kerr.UnknownTopicOrPartition):
			continue
		case t.Err != nil && kerr.IsRetriable(t.Err): // just made
			continue
		case t.Err != nil:
			errs = append(errs, fmt.Errorf("metadata of topic %s: %w", t.Topic, t.Err))
			continue
		}
		ready := len(t.Partitions) > 0
		for _, p := range t.Partitions {
			ready = ready && p.Err == nil && p.Leader >= 0
		}
		if ready {
			out[t.Topic] = int32(len(t.Partitions))
		}
	}
	return out, errors.Join(errs...)
}

// coPartitioned checks that all topics exist with one number of partitions, and
// returns it.
func (c *Client) coPartitioned(ctx context.Context, topics []string) (int32, error) {
	have, err := c.partitions(ctx, topics...)
	if err != nil {
		return 0, err
	}
	var (
		n     int32
		equal = true
		list  []string
	)
	for _, t := range topics {
		if have[t] == 0 {
			return 0, fmt.Errorf("input topic %s does not exist", t)
		}
		if n == 0 {
			n = have[t]
		}
		equal = equal && have[t] == n
		list = append(list, fmt.Sprintf("%s has %d", t, have[t]))
	}
	if !equal {
		return 0, fmt.Errorf("inputs are not co-partitioned, so that what belongs to one request would lie in partitions of different numbers: %s: %w", strings.Join(list, ", "), ErrPartitions)
	}
	return n, nil
}

// Offsets are the first offset still in the log and the next offset to be
// written, for every partition of the topics. A partition that is just being
// made or moved answers that nobody leads it yet: Offsets asks again for up to
// offsetsPatience.
func (c *Client) Offsets(ctx context.Context, topics ...string) (start, end map[string]map[int32]int64, err error) {
	if len(topics) == 0 {
		return map[string]map[int32]int64{}, map[string]map[int32]int64{}, nil
	}
	if start, err = listed(ctx, c.adm.ListStartOffsets, topics); err != nil {
		return nil, nil, fmt.Errorf("list start offsets: %w", err)
	}
	if end, err = listed(ctx, c.adm.ListEndOffsets, topics); err != nil {
		return nil, nil, fmt.Errorf("list end offsets: %w", err)
	}
	return start, end, nil
}

// offsetsPatience is how long Offsets waits for partitions to get a leader.
const offsetsPatience = 30 * time.Second

func listed(ctx context.Context, list func(context.Context, ...string) (kadm.ListedOffsets, error), topics []string) (map[string]map[int32]int64, error) {
	deadline := time.Now().Add(offsetsPatience)
	for try := 1; ; try++ {
		l, err := list(ctx, topics...)
		out, err := offsets(l, err)
		if err == nil || !kerr.IsRetriable(err) || time.Now().After(deadline) {
			return out, err
		}
		t := time.NewTimer(backoff(try))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		case <-t.C:
		}
	}
}

func offsets(l kadm.ListedOffsets, err error) (map[string]map[int32]int64, error) {
	if err == nil {
		err = l.Error()
	}
	if err != nil {
		return nil, err
	}
	out := make(map[string]map[int32]int64, len(l))
	l.Each(func(o kadm.ListedOffset) {
		if out[o.Topic] == nil {
			out[o.Topic] = map[int32]int64{}
		}
		out[o.Topic][o.Partition] = o.Offset
	})
	return out, nil
}
