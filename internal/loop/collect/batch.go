package collect

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/looptape/looptape/contract"
	"github.com/looptape/looptape/internal/loop/event"
)

// aliasSeparator stands between alias and request in the key of llm.alias.
const aliasSeparator = "\x1f"

// errTooLarge says that an event can't be kept because its body is too large and
// there is no place for large bodies.
var errTooLarge = errors.New("body is too large for a record and no object store is configured")

// A batch gathers the events of one request and appends them at once.
type batch struct {
	c      *Collector
	ctx    context.Context
	tenant string
	now    time.Time

	records []event.Record
	types   map[string]int // events by type, for the metrics
	aliases []string       // bindings to remember once they are on the tape
	bound   map[string]bool
	twins   map[string]int // ids given so far to records without an ordinal of their own
}

func (c *Collector) newBatch(ctx context.Context, tenant string) *batch {
	return &batch{c: c, ctx: ctx, tenant: tenant, now: c.cfg.Now().UTC(), types: map[string]int{}, bound: map[string]bool{}}
}

// mark is a place in a batch to which an item that fails is taken back.
type mark struct{ records, aliases int }

func (b *batch) mark() mark { return mark{len(b.records), len(b.aliases)} }

func (b *batch) undo(m mark) {
	for _, r := range b.records[m.records:] {
		b.types[r.Header("ce_type")]--
	}
	for _, a := range b.aliases[m.aliases:] {
		delete(b.bound, a)
	}
	b.records, b.aliases = b.records[:m.records], b.aliases[:m.aliases]
}

// twin tells identical ids of one request apart: the first keeps its id, the
// n-th gets one derived from it and n.
func (b *batch) twin(id string) string {
	if b.twins == nil {
		b.twins = map[string]int{}
	}
	n := b.twins[id]
	b.twins[id] = n + 1
	if n == 0 {
		return id
	}
	return event.DeriveID("twin", id, strconv.Itoa(n))
}

// add puts an event into the batch. under is the id that stands in for the
// request when the event has none. The errors are errTooLarge, which concerns
// this event only, or those of the object store, which end the request.
func (b *batch) add(e *event.Event, under string) error {
	tf := b.c.types[e.Type]
	f := &e.Facts
	f.Tenant = b.tenant
	f.ReceivedTime = b.now
	f.Privacy, f.Retention = tf.privacy, tf.retention
	if e.DataSchema == "" {
		e.DataSchema = tf.schema
	}
	if len(e.Data) > b.c.cfg.Limits.ClaimBytes {
		if b.c.cfg.Claims == nil {
			return errTooLarge
		}
		ref, err := b.c.cfg.Claims.Put(b.ctx, b.tenant, e.ID, e.Data)
		if err != nil {
			return err
		}
		e.DataRef, e.Data = ref, nil
	}
	key, partitionKey := b.place(tf.key, e, under)
	b.records = append(b.records, e.Record(tf.topic, key, partitionKey))
	b.types[e.Type]++
	return nil
}

// place is the record key of an event and the key that chooses its partition.
func (b *batch) place(kind string, e *event.Event, under string) (key, partitionKey string) {
	f := &e.Facts
	switch kind {
	case contract.KeyAlias:
		return under + aliasSeparator + f.Request, under
	case contract.KeyRelease:
		return f.Release, f.Release
	case contract.KeyEvaluator:
		return f.Evaluator, f.Evaluator
	case contract.KeyTenant:
		return b.tenant, b.tenant
	case contract.KeyTenantRequest:
		return b.tenant + "/" + f.Request, f.Request
	}
	if f.Request != "" {
		return f.Request, f.Request
	}
	return under, under
}

// bind adds alias.bound unless it is known to be on the tape already.
func (b *batch) bind(alias, kind, request string, at time.Time, source string) error {
	if alias == "" || alias == request || len(alias) > b.c.cfg.Limits.FactBytes {
		return nil
	}
	known := b.tenant + aliasSeparator + alias + aliasSeparator + request
	if b.bound[known] || b.c.bound.has(known) {
		return nil
	}
	body, err := encode(event.Alias{Alias: alias, Kind: kind, Request: request})
	if err != nil {
		return fmt.Errorf("encode alias: %w", err)
	}
	e := event.Event{
		ID: event.DeriveID("alias", b.tenant, alias, request), Type: event.AliasBound, Source: source, Time: at,
		Facts: event.Facts{Request: request}, Data: body,
	}
	if err := b.add(&e, alias); err != nil {
		return err
	}
	b.aliases = append(b.aliases, known)
	b.bound[known] = true
	return nil
}

// quarantine keeps an item as it came. identity tells it apart from all others.
func (b *batch) quarantine(q event.Quarantined, f event.Facts, at time.Time, source string, identity ...string) (id string, err error) {
	body, err := encode(q)
	if err != nil {
		return "", fmt.Errorf("encode quarantined %s: %w", q.Kind, err)
	}
	if at.IsZero() {
		at = b.now
	}
	parts := append([]string{"quarantine", b.tenant, q.Kind}, identity...)
	parts = append(parts, string(q.Raw))
	e := event.Event{ID: b.twin(event.DeriveID(parts...)), Type: event.EventQuarantined, Source: source, Time: at, Facts: f, Data: body}
	return e.ID, b.add(&e, "")
}

// flush appends everything and returns when it was acknowledged.
func (b *batch) flush() error {
	if len(b.records) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(b.ctx, b.c.cfg.AckTimeout)
	defer cancel()
	if err := b.c.cfg.Producer.Produce(ctx, b.records...); err != nil {
		return fmt.Errorf("append %d events: %w", len(b.records), err)
	}
	// The bindings are on the tape from here on; before, forgetting them would
	// have lost them.
	for _, a := range b.aliases {
		b.c.bound.add(a)
	}
	for typ, n := range b.types {
		if n > 0 {
			b.c.metrics.events.WithLabelValues(typ).Add(float64(n))
		}
	}
	return nil
}
