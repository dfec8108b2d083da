package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/looptape/looptape/internal/base/meta"
)

// MaxPartitions bounds the partitions of one topic.
const MaxPartitions = 100_000

// partsPerTxn keeps a transaction below meta.MaxOps.
const partsPerTxn = meta.MaxOps - 10

// Topic is a topic. Config has only what was set, as Kafka names and writes it.
// A Topic got from the catalog is shared: don't change its Config.
type Topic struct {
	ID         TopicID
	Name       string
	Partitions int32
	Config     map[string]string
	Internal   bool
	Created    int64 // ms

	settings *Settings
}

// Settings is the topic's configuration with defaults filled in.
func (t Topic) Settings() Settings {
	if t.settings != nil {
		return *t.settings
	}
	return settings(t.Config)
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// CheckName returns an error that wraps ErrBadName unless name is 1 to 249 of
// A-Z a-z 0-9 . _ - and neither "." nor "..".
func CheckName(name string) error {
	if name == "" || len(name) > 249 || name == "." || name == ".." {
		return fmt.Errorf("%w: %d characters; 1 to 249 are allowed, and not . or ..", ErrBadName, len(name))
	}
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return fmt.Errorf("%w: byte %#02x; letters, digits, '.', '_' and '-' are allowed", ErrBadName, c)
		}
	}
	return nil
}

// Topic returns the topic of that name.
func (c *Catalog) Topic(name string) (Topic, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	id, ok := c.ix.names[name]
	if !ok {
		return Topic{}, false
	}
	return c.ix.topics[id], true
}

// TopicByID returns the topic with that id.
func (c *Catalog) TopicByID(id TopicID) (Topic, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t, ok := c.ix.topics[id]
	return t, ok
}

// Topics returns all topics, by name.
func (c *Catalog) Topics() []Topic {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := make([]Topic, 0, len(c.ix.names))
	for _, name := range slices.Sorted(maps.Keys(c.ix.names)) {
		all = append(all, c.ix.topics[c.ix.names[name]])
	}
	return all
}

// CheckTopic says whether CreateTopic would accept t, save for its name being taken.
func CheckTopic(t Topic) error {
	if err := CheckName(t.Name); err != nil {
		return err
	}
	if t.Partitions < 1 || t.Partitions > MaxPartitions {
		return fmt.Errorf("%w: %d; 1 to %d are allowed", ErrBadPartitions, t.Partitions, MaxPartitions)
	}
	return CheckConfig(t.Config)
}

// CreateTopic creates the topic with its partitions, led by the calling broker,
// and returns it with its id. ErrTopicExists, ErrBadName, ErrBadPartitions,
// ErrBadConfig. When it returns nil the topic is durable and in the index.
func (c *Catalog) CreateTopic(ctx context.Context, t Topic) (Topic, error) {
	if err := CheckTopic(t); err != nil {
		return Topic{}, err
	}
	if _, taken := c.Topic(t.Name); taken {
		return Topic{}, fmt.Errorf("%w: %s", ErrTopicExists, t.Name)
	}
	t.ID = NewTopicID()
	t.Created = c.cfg.Now().UnixMilli()
	t.Config = maps.Clone(t.Config)
	c.mu.RLock()
	leader := c.leader
	c.mu.RUnlock()

	// Partition records of a topic that does not exist mean nothing, so what does
	// not fit into one transaction goes first; the topic makes all visible at once.
	ops := make([]meta.Op, 0, partsPerTxn+2)
	value := encodePart(leader)
	for i := range t.Partitions {
		if len(ops) == partsPerTxn {
			if _, err := c.txn(ctx, meta.Txn{Then: ops}); err != nil {
				return Topic{}, fmt.Errorf("create topic %s: write partitions: %w", t.Name, err)
			}
			ops = ops[:0]
		}
		ops = append(ops, meta.Put(partKey(Partition{t.ID, i}), value))
	}
	ops = append(ops, meta.Put(nameKey(t.Name), encodeName(t.ID)), meta.Put(topicKey(t.ID), encodeTopic(t)))
	res, err := c.txn(ctx, meta.Txn{
		If:      []meta.Cmp{meta.Absent(nameKey(t.Name))},
		Then:    ops,
		ElseGet: []string{nameKey(t.Name)},
	})
	if err != nil {
		return Topic{}, fmt.Errorf("create topic %s: %w", t.Name, err)
	}
	// The id is random: if the name maps to it, an earlier attempt was applied.
	if !res.OK && !(len(res.Else) == 1 && string(res.Else[0].Value) == string(encodeName(t.ID))) {
		return Topic{}, errors.Join(fmt.Errorf("%w: %s", ErrTopicExists, t.Name), c.wait(ctx, res.Rev))
	}
	if err := c.wait(ctx, res.Rev); err != nil {
		return Topic{}, fmt.Errorf("create topic %s: %w", t.Name, err)
	}
	s := settings(t.Config)
	t.settings = &s
	return t, nil
}

// DeleteTopic deletes the topic of that name. Its records are gone for readers
// at once; the objects follow after a grace. ErrUnknownTopic.
func (c *Catalog) DeleteTopic(ctx context.Context, name string) error {
	t, ok := c.Topic(name)
	if !ok {
		return fmt.Errorf("%w: %s", ErrUnknownTopic, name)
	}
	return c.DeleteTopicID(ctx, t.ID)
}

// DeleteTopicID is DeleteTopic by id.
func (c *Catalog) DeleteTopicID(ctx context.Context, id TopicID) error {
	t, ok := c.TopicByID(id)
	if !ok {
		return fmt.Errorf("%w: %s", ErrUnknownTopic, id)
	}
	if c.cfg.Entomb != nil {
		if err := c.cfg.Entomb(ctx, t); err != nil {
			return fmt.Errorf("delete topic %s: %w", t.Name, err)
		}
	}
	res, err := c.txn(ctx, meta.Txn{
		If: []meta.Cmp{meta.Exists(topicKey(id))},
		Then: []meta.Op{
			meta.Delete(topicKey(id)), meta.Delete(nameKey(t.Name)),
			meta.Put(deletedKey(id), encodeInt(c.cfg.Now().UnixMilli())),
		},
		ElseGet: []string{deletedKey(id)},
	})
	if err != nil {
		return fmt.Errorf("delete topic %s: %w", t.Name, err)
	}
	// Not OK: deleted by an earlier attempt or by somebody else; both are done.
	if err := c.wait(ctx, res.Rev); err != nil {
		return fmt.Errorf("delete topic %s: %w", t.Name, err)
	}
	return nil
}

// producerIDBlock is how many producer ids one transaction hands out.
const producerIDBlock = 1000

// NextProducerIDs hands out producer ids that nobody had before: n from first on.
func (c *Catalog) NextProducerIDs(ctx context.Context) (first, n int64, err error) {
	for {
		found, _, err := c.store.Get(ctx, keyPIDs)
		if err != nil {
			return 0, 0, fmt.Errorf("read next producer id: %w", err)
		}
		kv := found[keyPIDs]
		if kv.ModRev != 0 {
			if first, err = decodeInt("next producer id", kv.Value); err != nil {
				return 0, 0, err
			}
		}
		// An unknown outcome wastes a block at most: take the next one then.
		res, err := c.store.Txn(ctx, meta.Txn{
			If:   []meta.Cmp{meta.ModRevIs(keyPIDs, kv.ModRev)},
			Then: []meta.Op{meta.Put(keyPIDs, encodeInt(first+producerIDBlock))},
		})
		switch {
		case err == nil && res.OK:
			return first, producerIDBlock, nil
		case err != nil && !errors.Is(err, meta.ErrUnknown):
			return 0, 0, fmt.Errorf("take producer ids: %w", err)
		}
	}
}
