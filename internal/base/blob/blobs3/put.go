package blobs3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/minio/minio-go/v7"

	"github.com/looptape/looptape/internal/base/blob"
)

// MaxObjectBytes is the largest object one PUT can carry.
const MaxObjectBytes = 5 << 30

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	full, err := s.key(key)
	if err != nil {
		return err
	}
	if size < 0 || size > MaxObjectBytes {
		return fmt.Errorf("put %s: %d bytes, at most %d", key, size, int64(MaxObjectBytes))
	}
	if err := s.put(ctx, full, body, size); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	open := false // an attempt may have taken effect, or may still
	err := s.attempts(ctx, s.within(size), func(ctx context.Context) error {
		err := s.create(ctx, key, body, size)
		if status(err) == http.StatusPreconditionFailed {
			return blob.ErrExists
		}
		open = open || transient(err)
		return err
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, blob.ErrExists):
		return blob.ErrExists
	case open:
		return fmt.Errorf("%w: %w", blob.ErrUnknown, s.explain(err))
	}
	return s.explain(err)
}

// create is one attempt.
func (s *Store) create(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	for {
		conditional := s.Conditional()
		if !conditional {
			switch _, err := s.stat(ctx, key); {
			case err == nil:
				return blob.ErrExists
			case !errors.Is(err, blob.ErrNotFound):
				return err
			}
		}
		err := s.send(ctx, key, body, size, conditional)
		if !conditional || status(err) != http.StatusNotImplemented {
			return err
		}
		// The store knows no conditions and did nothing. From here on for good: look,
		// then write.
		s.SetConditional(false)
	}
}

// send is one PUT.
func (s *Store) send(ctx context.Context, key string, body io.ReaderAt, size int64, conditional bool) error {
	opts := minio.PutObjectOptions{ContentType: "application/octet-stream"}
	if conditional {
		opts.SetMatchETagExcept("*")
	}
	r := &bodyReader{from: body, size: size}
	_, err := s.core.PutObject(ctx, s.cfg.Bucket, key, r, size, "", "", opts)
	if broken := r.end(); broken != nil {
		return &bodyError{broken}
	}
	return err
}

// errEnded answers reads of a body after its Put.
var errEnded = errors.New("the put has ended")

// bodyReader reads a body once, from its start. A connection may go on reading
// after its request failed; end makes sure that it does not reach the body then. It
// is no io.Seeker, so that nobody rewinds it.
type bodyReader struct {
	mu    sync.Mutex // held while the body is read: end waits for that
	from  io.ReaderAt
	at    int64
	size  int64
	err   error // of the body
	ended bool
}

// Read implements io.Reader.
func (b *bodyReader) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ended:
		return 0, errEnded
	case b.err != nil:
		return 0, b.err
	case b.at == b.size:
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), b.size-b.at)]
	n, err := b.from.ReadAt(p, b.at)
	b.at += int64(n)
	if n == len(p) {
		return n, nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	b.err = fmt.Errorf("at byte %d of %d: %w", b.at, b.size, err)
	return n, b.err
}

// end makes every later Read fail and returns the error of the body, if it had one.
func (b *bodyReader) end() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	return b.err
}
