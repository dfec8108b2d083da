package catalog

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
)

// A transaction is repeated until its outcome is known, and what stays unknown is
// said to be, even if the last attempt was refused.
func TestOutcomeOfTxn(t *testing.T) {
	unknown := fmt.Errorf("timeout: %w", meta.ErrUnknown)
	full := fmt.Errorf("%w: %w", meta.ErrUnknown, meta.ErrNoSpace)
	denied := fmt.Errorf("%w", meta.ErrDenied)
	put := meta.Txn{If: []meta.Cmp{meta.Absent("/v1/k")}, Then: []meta.Op{meta.Put("/v1/k", nil)}, ElseGet: []string{"/v1/k"}}
	for _, c := range []struct {
		name          string
		faults        []metamem.Fault // of each attempt; then none
		within        time.Duration
		ok, isUnknown bool
		repeats       int64
		full          bool
	}{
		{name: "at once", ok: true},
		{name: "not applied", faults: []metamem.Fault{{Before: unknown}, {Before: unknown}}, ok: true, repeats: 2},
		{name: "applied", faults: []metamem.Fault{{After: unknown}}, repeats: 1},
		{name: "full for a while", faults: []metamem.Fault{{Before: full}, {Before: full}, {Before: full}}, ok: true, repeats: 3},
		{name: "refused", faults: []metamem.Fault{{Before: denied}}},
		{name: "applied, then refused", faults: []metamem.Fault{{After: unknown}, {Before: denied}}, isUnknown: true, repeats: 1},
		{name: "no time left", faults: []metamem.Fault{{After: full}, {Before: full}, {Before: full}}, within: 15 * time.Millisecond, isUnknown: true, repeats: 2, full: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			follow(t, func(t *testing.T, f *follower) {
				attempts := 0
				f.store.SetFault(func(call metamem.Call) metamem.Fault {
					if call.Method != "Txn" {
						return metamem.Fault{}
					}
					if attempts++; attempts <= len(c.faults) {
						return c.faults[attempts-1]
					}
					return metamem.Fault{}
				})
				ctx := t.Context()
				if c.within > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.within)
					defer cancel()
				}
				r, err := f.txn(ctx, put)
				if r.OK != c.ok || errors.Is(err, meta.ErrUnknown) != c.isUnknown {
					t.Errorf("%+v, %v", r, err)
				}
				if s := f.Stats(); s.Unknown != c.repeats || s.Full != c.full {
					t.Errorf("%+v", s)
				}
				synctest.Wait()
			})
		})
	}
}
