package blobs3

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7/pkg/lifecycle"
)

// BucketRules are the rules of the bucket that act on objects of the store behind
// its back.
type BucketRules struct {
	Deletes   []string // names of lifecycle rules that delete objects of the store
	Moves     []string // of those that move them to another storage class
	Versioned bool     // deleted objects live on as versions, and cost
}

// BucketRules reads the bucket's rules. A store that has no such thing has no
// rules. Who may not read them gets blob.ErrRefused.
func (s *Store) BucketRules(ctx context.Context) (BucketRules, error) {
	var rules BucketRules
	err := s.attempts(ctx, s.cfg.Timeout, func(ctx context.Context) error {
		rules = BucketRules{}
		c, err := s.client.GetBucketLifecycle(ctx, s.cfg.Bucket)
		if r, _ := answer(err); r.Code == "NoSuchLifecycleConfiguration" || none(err) {
			c, err = &lifecycle.Configuration{}, nil
		}
		if err != nil {
			return err
		}
		for i, r := range c.Rules {
			prefix := r.RuleFilter.Prefix + r.RuleFilter.And.Prefix + r.Prefix // at most one of them is there
			ours := strings.HasPrefix(prefix, s.prefix) || strings.HasPrefix(s.prefix, prefix)
			if r.Status != "Enabled" || !ours {
				continue
			}
			name := fmt.Sprintf("%q", clean(r.ID))
			if r.ID == "" {
				name = fmt.Sprintf("number %d", i+1)
			}
			if prefix != "" {
				name += " on " + clean(prefix)
			}
			if !r.Expiration.IsNull() || !r.AllVersionsExpiration.IsNull() {
				rules.Deletes = append(rules.Deletes, name)
			}
			if !r.Transition.IsNull() {
				rules.Moves = append(rules.Moves, name)
			}
		}
		v, err := s.client.GetBucketVersioning(ctx, s.cfg.Bucket)
		if none(err) {
			err = nil
		}
		rules.Versioned = v.Enabled() || v.Suspended()
		return err
	})
	if err != nil {
		return BucketRules{}, fmt.Errorf("read rules of the bucket: %w", s.explain(err))
	}
	return rules, nil
}

// none tells whether a store has no such feature.
func none(err error) bool {
	r, _ := answer(err)
	return r.StatusCode == http.StatusNotImplemented || r.StatusCode == http.StatusMethodNotAllowed || r.Code == "NotImplemented"
}
