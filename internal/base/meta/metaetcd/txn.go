package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/looptape/looptape/internal/base/meta"
)

// Txn implements meta.Store.
func (s *Store) Txn(ctx context.Context, t meta.Txn) (meta.TxnResult, error) {
	if err := t.Check(); err != nil {
		return meta.TxnResult{}, err
	}
	if err := s.usable(ctx); err != nil {
		return meta.TxnResult{}, fmt.Errorf("transaction in etcd: %w", err)
	}
	cmps := make([]clientv3.Cmp, len(t.If))
	for i, c := range t.If {
		cmps[i] = s.cmp(c)
	}
	then := make([]clientv3.Op, len(t.Then))
	for i, o := range t.Then {
		then[i] = s.op(o)
	}
	otherwise := make([]clientv3.Op, len(t.ElseGet))
	for i, k := range t.ElseGet {
		otherwise[i] = clientv3.OpGet(s.prefix + k)
	}
	ctx, cancel := s.request(withOnce(ctx))
	defer cancel()
	res, err := s.client.Txn(ctx).If(cmps...).Then(then...).Else(otherwise...).Commit()
	if err != nil {
		return meta.TxnResult{}, fmt.Errorf("transaction in etcd: %w", outcome(err))
	}
	r := meta.TxnResult{OK: res.Succeeded, Rev: res.Header.Revision}
	if !res.Succeeded {
		for _, x := range res.Responses {
			for _, kv := range x.GetResponseRange().GetKvs() {
				r.Else = append(r.Else, s.kv(kv))
			}
		}
	}
	return r, nil
}

func (s *Store) cmp(c meta.Cmp) clientv3.Cmp {
	key := s.prefix + c.Key
	switch c.Kind {
	case meta.CmpAbsent:
		return clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	case meta.CmpExists:
		return clientv3.Compare(clientv3.CreateRevision(key), ">", 0)
	case meta.CmpModRev:
		return clientv3.Compare(clientv3.ModRevision(key), "=", c.Rev)
	case meta.CmpCreateRev:
		return clientv3.Compare(clientv3.CreateRevision(key), "=", c.Rev)
	default: // CmpValue; Check let nothing else through. Never holds for an absent key.
		return clientv3.Compare(clientv3.Value(key), "=", string(c.Value))
	}
}

func (s *Store) op(o meta.Op) clientv3.Op {
	key := s.prefix + o.Key
	switch o.Kind {
	case meta.OpPut:
		return clientv3.OpPut(key, string(o.Value), clientv3.WithLease(clientv3.LeaseID(o.Lease)))
	case meta.OpDelete:
		return clientv3.OpDelete(key)
	default: // OpDeletePrefix
		return clientv3.OpDelete(key, clientv3.WithPrefix())
	}
}

func (s *Store) kv(kv *mvccpb.KeyValue) meta.KV {
	return meta.KV{
		Key: strings.TrimPrefix(string(kv.Key), s.prefix), Value: value(kv.Value),
		CreateRev: kv.CreateRevision, ModRev: kv.ModRevision,
	}
}

// outcome says what an error of a transaction that was sent means. What is not
// known to come from before etcd applied anything is unknown; more so than
// needed does no harm.
func outcome(err error) error {
	switch ours, known := refused(err); {
	case !known:
		return fmt.Errorf("%w: %w", meta.ErrUnknown, err)
	case errors.Is(ours, meta.ErrNoSpace):
		// Checked before, but what is under way when the quota is reached is
		// applied and answered with this, too.
		return fmt.Errorf("%w: %w", meta.ErrUnknown, ours)
	default:
		return ours
	}
}

// refusals are the errors that etcd gives instead of doing what is asked.
var refusals = []struct {
	etcd error
	ours error
}{
	{rpctypes.ErrLeaseNotFound, meta.ErrNoLease},
	{rpctypes.ErrRequestTooLarge, meta.ErrTooLarge},
	{rpctypes.ErrTooManyOps, meta.ErrTooLarge},
	{rpctypes.ErrEmptyKey, meta.ErrInvalid},
	{rpctypes.ErrDuplicateKey, meta.ErrInvalid},
	{rpctypes.ErrLeaseTTLTooLarge, meta.ErrInvalid},
	{rpctypes.ErrCompacted, meta.ErrCompacted},
	{rpctypes.ErrNoSpace, meta.ErrNoSpace},
	{rpctypes.ErrPermissionDenied, meta.ErrDenied},
	{rpctypes.ErrAuthFailed, meta.ErrDenied},
	{rpctypes.ErrAuthNotEnabled, meta.ErrDenied},
	{rpctypes.ErrUserEmpty, meta.ErrDenied},
	{rpctypes.ErrUserNotFound, meta.ErrDenied},
	{rpctypes.ErrInvalidAuthToken, meta.ErrDenied},
	{rpctypes.ErrAuthOldRevision, meta.ErrDenied},
}

// refused tells whether err is a refusal, and then says it in the words of meta.
func refused(err error) (ours error, ok bool) {
	var e rpctypes.EtcdError
	if errors.As(rpctypes.Error(err), &e) {
		for _, r := range refusals {
			if e == r.etcd {
				return fmt.Errorf("%w: %w", r.ours, e), true
			}
		}
	}
	return nil, false
}

// plain is err, in the words of meta if it is a refusal.
func plain(err error) error {
	if ours, ok := refused(err); ok {
		return ours
	}
	return err
}

func compacted(err error) bool { return errors.Is(plain(err), meta.ErrCompacted) }

// lost says that there was no answer, or that etcd has no leader now.
func lost(err error) bool {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code() == codes.Unavailable
	}
	return status.Code(err) == codes.Unavailable
}
