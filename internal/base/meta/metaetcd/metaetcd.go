// Package metaetcd is a meta.Store in an etcd cluster, for many processes.
//
// Several clusters of Looptape may share one etcd, each under its own prefix: a
// key of the store is "prefix:key" in etcd, and as a prefix has no colon none
// lies within another. Revisions are etcd's, so what others do raises them too.
//
//	etcd://[user:password@]host:port[,host:port...][/prefix][?options]
//
// The options are listed at Parse.
//
// What it promises. Reads are linearizable; a Get or a Scan of any size is of one
// revision. A transaction is one etcd transaction and is sent once: the only
// errors that are not meta.ErrUnknown are those that etcd gives before it
// applies anything. A timeout, a lost connection, a change of leader or the end
// of the context leave it unknown. So does a full etcd (meta.ErrNoSpace): the
// very transaction that fills it is applied and answered with that error.
//
// A watch sends whole revisions in order; it goes on by itself when a connection
// or a member of etcd is lost, and ends when its member has no leader or when
// what it needs is compacted. Progress relies on etcd 3.5.8 or later: earlier
// ones may tell of progress before they send what it covers. Open refuses them.
//
// How it fails. Errors name the operation and keys, never values or secrets.
// While etcd can't be reached calls fail after the request timeout.
package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/run"
)

const (
	// pageKeys bounds the keys of one answer of a Scan.
	pageKeys = 1000
	// getKeys bounds the keys of one request of a Get; etcd takes 128.
	getKeys = 100
	// attempts bounds how often a read begins anew because its revision was
	// compacted meanwhile.
	attempts = 5
	// readPause is between two attempts of a read while etcd can't be reached.
	readPause = 50 * time.Millisecond
)

// reconnect is how attempts to connect are spaced. What gRPC does by itself, up to
// two minutes, would keep brokers away long after etcd is back.
var reconnect = backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}

// connectWait bounds one attempt.
const connectWait = 3 * time.Second

// Store is a meta.Store in etcd. Use Open.
type Store struct {
	client  *clientv3.Client
	cfg     Config
	prefix  string // of every key, with its colon
	watches *run.Group
	open    atomic.Int64 // watches
	mu      sync.Mutex   // guards closed against new watches
	closed  bool
}

var _ meta.Store = (*Store)(nil)

// Open connects to etcd and checks that it answers, takes the user and is recent
// enough.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	secure, err := cfg.tls()
	if err != nil {
		return nil, fmt.Errorf("open etcd %s: %w", cfg, err)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.endpoints(),
		DialTimeout:          cfg.DialTimeout,
		DialKeepAliveTime:    keepAliveEvery,
		DialKeepAliveTimeout: keepAliveWait,
		TLS:                  secure,
		Username:             cfg.User,
		Password:             cfg.Password,
		Logger:               zap.NewNop(), // it would log what it sends
		DialOptions: []grpc.DialOption{
			grpc.WithChainUnaryInterceptor(sendOnce),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: connectWait}),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("open etcd %s: %w", cfg, plain(err))
	}
	s := &Store{client: client, cfg: cfg, prefix: cfg.Prefix + ":", watches: run.New(context.Background())}
	if err := s.greet(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open etcd %s: %w", cfg, err), s.Close())
	}
	return s, nil
}

// greet reads something, which needs a quorum and the right to it.
func (s *Store) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.DialTimeout, fmt.Errorf("no answer within %v: is it up, and are its address and the use of TLS right?", s.cfg.DialTimeout))
	defer cancel()
	if _, err := s.client.Get(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly()); err != nil {
		if cause := context.Cause(ctx); cause != nil && cause != ctx.Err() {
			return fmt.Errorf("%w (%w)", cause, plain(err))
		}
		return plain(err)
	}
	return s.checkVersion(ctx)
}

// usable says why the store can't be used. After it a call is under way.
func (s *Store) usable(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return meta.ErrClosed
	}
	return ctx.Err()
}

// failed is what a read returns for an error of the client.
func (s *Store) failed(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("%w: %w", meta.ErrClosed, err)
	}
	return plain(err)
}

func (s *Store) request(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.cfg.RequestTimeout)
}

// Get implements meta.Store.
func (s *Store) Get(ctx context.Context, keys ...string) (map[string]meta.KV, int64, error) {
	if err := s.usable(ctx); err != nil {
		return nil, 0, fmt.Errorf("get from etcd: %w", err)
	}
	var err error
	for range attempts {
		found := make(map[string]meta.KV, len(keys))
		var rev int64
		if rev, err = s.get(ctx, keys, found); err == nil {
			return found, rev, nil
		}
		if !compacted(err) {
			break
		}
	}
	return nil, 0, fmt.Errorf("get %d keys from etcd: %w", len(keys), s.failed(err))
}

func (s *Store) get(ctx context.Context, keys []string, found map[string]meta.KV) (rev int64, err error) {
	for first := true; first || len(keys) > 0; first = false {
		some := keys[:min(getKeys, len(keys))]
		keys = keys[len(some):]
		ops := make([]clientv3.Op, 0, max(1, len(some)))
		for _, k := range some {
			ops = append(ops, clientv3.OpGet(s.prefix+k, clientv3.WithRev(rev)))
		}
		if len(ops) == 0 { // for the revision only
			ops = append(ops, clientv3.OpGet(s.prefix, clientv3.WithCountOnly()))
		}
		res, err := s.read(ctx, ops)
		if err != nil {
			return 0, err
		}
		if rev == 0 {
			rev = res.Header.Revision
		}
		for _, r := range res.Responses {
			for _, kv := range r.GetResponseRange().GetKvs() {
				v := s.kv(kv)
				found[v.Key] = v
			}
		}
	}
	return rev, nil
}

// read runs the gets at one revision. The client repeats a single get while the
// connection is lost, but no transaction; one that only reads may be.
func (s *Store) read(ctx context.Context, ops []clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := s.request(ctx)
	defer cancel()
	for {
		res, err := s.client.Txn(ctx).Then(ops...).Commit()
		if err == nil || !lost(err) {
			return res, err
		}
		pause := time.NewTimer(readPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// Scan implements meta.Store.
func (s *Store) Scan(ctx context.Context, prefix string, fn func(meta.KV) error) (int64, error) {
	if err := s.usable(ctx); err != nil {
		return 0, fmt.Errorf("scan %q in etcd: %w", prefix, err)
	}
	begin, end := s.prefix+prefix, clientv3.GetPrefixRangeEnd(s.prefix+prefix)
	var rev int64
	for {
		page, err := s.page(ctx, begin, end, rev)
		if err != nil {
			// A revision that is compacted under a scan can't be read on, and what
			// fn got can't be taken back: the caller scans again.
			return 0, fmt.Errorf("scan %q in etcd: %w", prefix, s.failed(err))
		}
		if rev == 0 {
			rev = page.Header.Revision
		}
		for _, kv := range page.Kvs {
			if err := fn(s.kv(kv)); err != nil {
				return 0, err
			}
		}
		if !page.More || len(page.Kvs) == 0 {
			return rev, nil
		}
		begin = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

func (s *Store) page(ctx context.Context, begin, end string, rev int64) (*clientv3.GetResponse, error) {
	ctx, cancel := s.request(ctx)
	defer cancel()
	return s.client.Get(ctx, begin, clientv3.WithRange(end), clientv3.WithLimit(pageKeys), clientv3.WithRev(rev),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
}

// Close implements meta.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if again {
		return nil
	}
	s.watches.Stop()
	err := s.watches.Wait()
	if cerr := s.client.Close(); cerr != nil && !errors.Is(cerr, context.Canceled) {
		err = errors.Join(err, fmt.Errorf("close etcd client: %w", cerr))
	}
	return err
}

func value(v []byte) []byte { return append([]byte{}, v...) } // never nil
