package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/meta"
)

// fake is as much of etcd as the errors of a transaction need. It answers the
// n-th transaction that writes with the n-th error, and the others with success.
type fake struct {
	pb.UnimplementedKVServer
	pb.UnimplementedMaintenanceServer

	mu     sync.Mutex
	errs   []error
	writes int
	reads  int
	stall  bool // transactions that write go on until the caller's time is over
}

func (f *fake) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 7}}, nil
}

func (f *fake) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(r.Success) > 0 && r.Success[0].GetRequestRange() != nil {
		if f.reads++; f.reads%2 == 1 {
			return nil, rpctypes.ErrGRPCLeaderChanged
		}
		return &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: 7}, Succeeded: true}, nil
	}
	f.writes++
	if f.stall {
		<-ctx.Done()
		return nil, rpctypes.ErrGRPCDeadlineExceeded // at times before the client's clock says so
	}
	if f.writes <= len(f.errs) {
		return nil, f.errs[f.writes-1]
	}
	return &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: 8}, Succeeded: f.writes == 1}, nil
}

func (f *fake) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{}, Version: "3.7.3"}, nil
}

func (f *fake) open(t *testing.T) *Store {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterKVServer(server, f)
	pb.RegisterMaintenanceServer(server, f)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	s, err := Open(t.Context(), Config{Endpoints: []string{l.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

var aPut = meta.Txn{If: []meta.Cmp{meta.Absent("key")}, Then: []meta.Op{meta.Put("key", []byte("hunter2"))}}

// Every error of etcd ends as what it is: refused before anything was applied,
// or unknown. None is answered by sending the transaction again.
func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		etcd error
		want []error // all of them
	}{
		{rpctypes.ErrGRPCTimeout, []error{meta.ErrUnknown}},
		{rpctypes.ErrGRPCTimeoutDueToLeaderFail, []error{meta.ErrUnknown}},
		{rpctypes.ErrGRPCTimeoutDueToConnectionLost, []error{meta.ErrUnknown}},
		{rpctypes.ErrGRPCTimeoutWaitAppliedIndex, []error{meta.ErrUnknown}},
		{rpctypes.ErrGRPCLeaderChanged, []error{meta.ErrUnknown}},
		{rpctypes.ErrGRPCNotLeader, []error{meta.ErrUnknown}},
		{rpctypes.ErrGRPCNoLeader, []error{meta.ErrUnknown}},
		{rpctypes.ErrGRPCStopped, []error{meta.ErrUnknown}},
		{rpctypes.ErrGRPCUnhealthy, []error{meta.ErrUnknown}},
		{rpctypes.ErrGRPCRequestTooManyRequests, []error{meta.ErrUnknown}},
		{rpctypes.ErrGRPCCanceled, []error{meta.ErrUnknown}},
		{rpctypes.ErrGRPCDeadlineExceeded, []error{meta.ErrUnknown}},
		{status.Error(codes.Canceled, "stream reset"), []error{meta.ErrUnknown}},
		{status.Error(codes.DeadlineExceeded, "the server's clock is faster"), []error{meta.ErrUnknown}},
		{status.Error(codes.Unavailable, "transport is closing"), []error{meta.ErrUnknown}},
		{status.Error(codes.Internal, "?"), []error{meta.ErrUnknown}},
		{status.Error(codes.Unknown, "?"), []error{meta.ErrUnknown}},
		{status.Error(codes.ResourceExhausted, "?"), []error{meta.ErrUnknown}},
		{rpctypes.ErrGRPCNoSpace, []error{meta.ErrUnknown, meta.ErrNoSpace}},
		{rpctypes.ErrGRPCLeaseNotFound, []error{meta.ErrNoLease}},
		{rpctypes.ErrGRPCRequestTooLarge, []error{meta.ErrTooLarge}},
		{rpctypes.ErrGRPCTooManyOps, []error{meta.ErrTooLarge}},
		{rpctypes.ErrGRPCDuplicateKey, []error{meta.ErrInvalid}},
		{rpctypes.ErrGRPCPermissionDenied, []error{meta.ErrDenied}},
		{rpctypes.ErrGRPCUserEmpty, []error{meta.ErrDenied}},
	} {
		t.Run(status.Convert(c.etcd).Message(), func(t *testing.T) {
			f := &fake{errs: []error{c.etcd}}
			s := f.open(t)
			r, err := s.Txn(t.Context(), aPut)
			var got []error
			for _, e := range []error{
				meta.ErrUnknown, meta.ErrNoSpace, meta.ErrNoLease, meta.ErrTooLarge, meta.ErrInvalid, meta.ErrDenied, meta.ErrCompacted, meta.ErrClosed,
			} {
				if errors.Is(err, e) {
					got = append(got, e)
				}
			}
			if d := cmp.Diff(fmt.Sprint(c.want), fmt.Sprint(got)); d != "" || r.OK {
				t.Errorf("%+v, %v:\n%s", r, err, d)
			}
			if f.writes != 1 {
				t.Errorf("sent %d times", f.writes)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a value: %v", err)
			}
		})
	}
}

// The end of a context after a transaction was sent leaves its outcome unknown;
// before, nothing is sent.
func TestContextEnds(t *testing.T) {
	f := &fake{stall: true}
	s := f.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Txn(ctx, aPut); !errors.Is(err, meta.ErrUnknown) {
		t.Errorf("sent: %v", err)
	}
	<-ctx.Done()
	if _, err := s.Txn(ctx, aPut); errors.Is(err, meta.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("not sent: %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writes != 1 {
		t.Errorf("sent %d times", f.writes)
	}
}

// A read goes on while etcd changes its leader.
func TestReadsAreRepeated(t *testing.T) {
	f := &fake{}
	s := f.open(t)
	if _, rev, err := s.Get(t.Context(), "a", "b"); err != nil || rev != 7 || f.reads != 2 {
		t.Errorf("at %d after %d attempts: %v", rev, f.reads, err)
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), Config{Endpoints: []string{at}, User: "root", Password: "hunter2", DialTimeout: 200 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), at) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

// Answers of a watch become whole batches, or the watch ends.
func TestBatches(t *testing.T) {
	s := &Store{prefix: "p:"}
	put := func(key string, rev int64) *clientv3.Event {
		return &clientv3.Event{Type: mvccpb.PUT, Kv: &mvccpb.KeyValue{Key: []byte("p:" + key), Value: []byte{1}, ModRevision: rev}}
	}
	gone := func(key string, rev int64) *clientv3.Event {
		return &clientv3.Event{Type: mvccpb.DELETE, Kv: &mvccpb.KeyValue{Key: []byte("p:" + key), ModRevision: rev}}
	}
	event := func(key string, rev int64) meta.Event { return meta.Event{Key: key, ModRev: rev, Value: []byte{1}} }
	for name, c := range map[string]struct {
		events []*clientv3.Event
		header int64
		want   []meta.Batch
		torn   bool
	}{
		"several": {[]*clientv3.Event{put("a", 6), gone("b", 6), put("a", 9)}, 9, []meta.Batch{
			{Rev: 6, Events: []meta.Event{event("a", 6), {Key: "b", ModRev: 6, Deleted: true}}}, {Rev: 9, Events: []meta.Event{event("a", 9)}},
		}, false},
		"progress":           {nil, 12, []meta.Batch{{Rev: 12}}, false},
		"progress of before": {nil, 4, nil, false},
		"rest of a revision": {[]*clientv3.Event{put("a", 5)}, 5, nil, true},
		"goes back":          {[]*clientv3.Event{put("a", 7), put("a", 6)}, 7, nil, true},
		"old":                {[]*clientv3.Event{put("a", 3)}, 9, nil, true},
	} {
		got, err := s.batches(5, clientv3.WatchResponse{Header: &pb.ResponseHeader{Revision: c.header}, Events: c.events})
		if c.torn != errors.Is(err, meta.ErrCompacted) {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}
