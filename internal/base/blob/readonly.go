package blob

import (
	"context"
	"fmt"
	"io"
)

// ReadOnly returns s without its Put and Delete: they are refused.
func ReadOnly(s Store) Store { return readOnly{s} }

type readOnly struct{ Store }

// Unwrap gives As what is below.
func (s readOnly) Unwrap() Store { return s.Store }

func (readOnly) Put(_ context.Context, key string, _ io.ReaderAt, _ int64) error {
	return fmt.Errorf("put %s: %w: it was opened for reading", key, ErrRefused)
}

func (readOnly) Delete(_ context.Context, key string) error {
	return fmt.Errorf("delete %s: %w: it was opened for reading", key, ErrRefused)
}
