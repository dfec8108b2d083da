// Package blobs3 is a blob.Store in a bucket of Amazon S3, or of a store that
// speaks its protocol.
//
//	s3://bucket/prefix   key a/b/c is the object prefix/a/b/c of the bucket
//
// Every object is one PUT with "If-None-Match: *", so the store itself makes sure
// that nothing is ever replaced; multipart uploads, whose last step not every store
// makes conditional, are not used. A store that has no conditions is found out by
// blob.Probe, or by its answer 501; then Put looks first and writes after, and
// Conditional says false.
//
// Every request has a deadline, which for a Put or a read grows with its size.
// Requests that fail in a way that may pass (a cut connection, a timeout, 409, 429,
// 5xx) are repeated a few times within it. A repeated Put reads its body again from
// the start and sends the same bytes; when Put returns, the body is no longer read,
// whatever the connection still does. Connections are pooled and bounded.
//
// How it fails. Put: ErrExists for 412, which may be one's own earlier attempt;
// ErrUnknown for everything that leaves open whether the store has the object.
// Reads: ErrNotFound, ErrRange, or what went wrong after the last attempt; bytes
// are returned only when all of them came and the store said that they are those
// asked for. ErrRefused with what to do when the bucket, the credentials or their
// rights are missing. No error shows a secret or what a server says of one.
package blobs3

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/looptape/looptape/internal/base/blob"
)

// Config says where the store is. Bucket is needed; the rest has defaults.
type Config struct {
	Bucket   string
	Prefix   string // of all keys, without slashes around it; empty: none
	Endpoint string // http://host:port or https://host; empty: Amazon S3
	Region   string // empty: AWS_REGION, or what the store says of the bucket
	Style    string // how the bucket is named: "path" or "host"; empty: as fits the endpoint
	CAFile   string // certificates to trust instead of the system's, PEM

	Credentials *credentials.Credentials // nil: environment, ~/.aws, role of machine, container or web identity
	MaxConns    int                      // open connections; default 64
	Timeout     time.Duration            // of a request, beside the time for its bytes; default 10 s
	BytesPerSec int64                    // the slowest transfer that is waited for; default 1 MiB/s
	Attempts    int                      // of a request; default 4
	Pause       time.Duration            // before the second attempt, about; doubled for each further one; default 50 ms
}

func (c Config) withDefaults() Config {
	if c.MaxConns <= 0 {
		c.MaxConns = 64
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if c.BytesPerSec <= 0 {
		c.BytesPerSec = 1 << 20
	}
	if c.Attempts <= 0 {
		c.Attempts = 4
	}
	if c.Pause <= 0 {
		c.Pause = 50 * time.Millisecond
	}
	return c
}

// Store is a blob.Store in a bucket. Use Open.
type Store struct {
	cfg           Config
	client        *minio.Client
	core          minio.Core
	creds         *credentials.Credentials
	prefix        string // "" or ending in "/"
	unconditional atomic.Bool
}

var (
	_ blob.Store       = (*Store)(nil)
	_ blob.Clock       = (*Store)(nil)
	_ blob.Conditioner = (*Store)(nil)
)

// Open returns the store of cfg. It asks the bucket once, and fails if it is
// refused. That the store doesn't answer now, or only with errors that may pass, is
// no error: later calls will see.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s, err := open(cfg.withDefaults())
	if err == nil {
		err = s.greet(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", cfg.Bucket, err)
	}
	return s, nil
}

func open(cfg Config) (*Store, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, creds: cfg.Credentials}
	if cfg.Prefix != "" {
		s.prefix = cfg.Prefix + "/"
	}
	if s.creds == nil {
		s.creds = credentials.New(&chain{})
	}
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	host, secure := "s3.amazonaws.com", true
	if cfg.Endpoint != "" {
		u, err := url.Parse(cfg.Endpoint)
		if err != nil {
			return nil, errors.New("endpoint is no URL")
		}
		host, secure = u.Host, u.Scheme == "https"
		if cfg.Region == "" {
			cfg.Region = "us-east-1" // what stores other than Amazon's expect unless told otherwise
		}
	}
	lookup := minio.BucketLookupAuto
	switch cfg.Style {
	case "path":
		lookup = minio.BucketLookupPath
	case "host":
		lookup = minio.BucketLookupDNS
	}
	// The client itself repeats nothing: its attempts would share one body.
	s.client, err = minio.New(host, &minio.Options{
		Creds: s.creds, Secure: secure, Region: cfg.Region, BucketLookup: lookup, Transport: transport, MaxRetries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("endpoint %q: %w", cfg.Endpoint, err)
	}
	s.client.SetAppInfo("looptape", "1")
	s.core = minio.Core{Client: s.client}
	return s, nil
}

// greet asks for one key of the bucket.
func (s *Store) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	if _, err := s.creds.GetWithContext(nil); err != nil {
		return fmt.Errorf("%w: %w", blob.ErrRefused, err)
	}
	_, _, err := s.page(ctx, "", "", 1)
	if err == nil || transient(err) && ctx.Err() == nil {
		return nil
	}
	return s.explain(err)
}

// Conditional implements blob.Conditioner.
func (s *Store) Conditional() bool { return !s.unconditional.Load() }

// SetConditional implements blob.Conditioner.
func (s *Store) SetConditional(yes bool) { s.unconditional.Store(!yes) }

// Now implements blob.Clock: the Date of an answer, whatever it answers.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	var now time.Time
	err := s.attempts(ctx, s.cfg.Timeout, func(ctx context.Context) error {
		var date string
		ctx = context.WithValue(ctx, dateKey{}, &date)
		_, err := s.client.BucketExists(ctx, s.cfg.Bucket)
		at, perr := http.ParseTime(date)
		switch {
		case perr == nil:
			now = at
			return nil
		case err != nil:
			return err
		}
		return wrong("the store's answer has no date")
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("ask the store's time: %w", s.explain(err))
	}
	return now, nil
}

// attempts calls do until it succeeds, fails for good, was called often enough, or
// no time is left; all of it has the deadline within.
func (s *Store) attempts(ctx context.Context, within time.Duration, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	pause := s.cfg.Pause
	for n := 1; ; n++ {
		err := do(bounded)
		if err == nil {
			return nil
		}
		if e := ctx.Err(); e != nil {
			return e // the caller's word, not ours
		}
		if n >= s.cfg.Attempts || !transient(err) || bounded.Err() != nil {
			return err
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-t.C:
		case <-bounded.Done():
			t.Stop()
			return err
		}
		pause *= 2
	}
}

// time allowed for a request that carries n bytes.
func (s *Store) within(n int64) time.Duration {
	return s.cfg.Timeout + time.Duration(float64(n)/float64(s.cfg.BytesPerSec)*float64(time.Second))
}

// key is the name of the object in the bucket.
func (s *Store) key(key string) (string, error) {
	if err := blob.CheckKey(key); err != nil {
		return "", err
	}
	full := s.prefix + key
	if len(full) > blob.MaxKeyBytes {
		return "", fmt.Errorf("%w: %d bytes with the store's prefix", blob.ErrBadKey, len(full))
	}
	return full, nil
}
