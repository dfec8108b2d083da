// Package blob is the contract of an object store: immutable bytes under a key.
//
// An object is stored once, whole, and never changed: Put creates it only if the
// key is absent, so two writers can't overwrite each other and a repeated Put
// can't harm. What Put reported as stored stays stored through a crash, and is
// seen by every later Stat, GetRange and List.
//
// A Put has three outcomes. nil: stored and durable. ErrExists: the key was
// taken, by somebody else or by an earlier attempt of the same caller; nothing
// was changed. ErrUnknown, or any other error: it may have happened, now or
// later; repeat the Put with the same bytes, or look. Nobody may conclude from an
// error that the object is absent.
//
// Keys are paths of one or more segments joined by "/", see CheckKey. No key may
// be the beginning of another's path ("a" and "a/b"): a directory can't hold both,
// and a Put of the second may fail with ErrBadKey. The
// packages below implement the contract: blobdir in a local directory, blobs3 in a
// bucket of an S3-compatible store, blobmem in memory with faults for tests. All
// pass the suite of blobtest; bloburl opens a store by its URL.
//
// What not every store can do is asked for: Probe finds out whether Put really is
// create-only, As finds a Clock, and Counted counts the requests.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

var (
	// ErrExists says that the key is taken; the stored object was left as it is.
	ErrExists = errors.New("object exists")
	// ErrNotFound says that no object has the key.
	ErrNotFound = errors.New("object not found")
	// ErrUnknown says that the outcome is not known: it may have happened, or
	// may still happen. Repeat the call with the same bytes, or look.
	ErrUnknown = errors.New("outcome unknown")
	// ErrRange says that a read asked for bytes beyond the end of the object.
	ErrRange = errors.New("range outside of the object")
	// ErrRefused says that the store refuses such a call: the bucket is missing, or
	// the credentials or their rights are. Nothing was done, and repeating does not
	// help until an operator has acted; the message says how.
	ErrRefused = errors.New("object store refuses")
	// ErrBadKey says that a key or a prefix is not one CheckKey allows.
	ErrBadKey = errors.New("bad object key")
)

// MaxKeyBytes bounds the length of a key; it is what S3 allows.
const MaxKeyBytes = 1024

// maxSegmentBytes bounds one segment of a key; it is what file systems allow.
const maxSegmentBytes = 255

// Info describes an object.
type Info struct {
	Key      string
	Size     int64 // bytes
	Modified time.Time
}

// A Store keeps objects. All methods may be called at the same time from many
// goroutines.
type Store interface {
	// Put stores size bytes of body under key if and only if the key is absent.
	// The object is durable when Put returns nil. ErrExists: the key was taken,
	// perhaps by an earlier attempt of the caller. ErrUnknown: it may have
	// happened, repeat with the same bytes. Put reads body at offsets in
	// [0, size), perhaps more than once, and not after it returned.
	Put(ctx context.Context, key string, body io.ReaderAt, size int64) error

	// GetRange fills dst with the bytes of the object from off on, and returns
	// len(dst), or an error. ErrNotFound: no such object. ErrRange: the object
	// ends before off+len(dst).
	GetRange(ctx context.Context, key string, off int64, dst []byte) (n int, err error)

	// Stat describes the object, or returns ErrNotFound.
	Stat(ctx context.Context, key string) (Info, error)

	// List calls fn for every object whose key starts with prefix, in the order
	// of the keys' bytes. An error of fn ends the listing and is returned.
	// Objects put or deleted meanwhile may be seen or not.
	List(ctx context.Context, prefix string, fn func(Info) error) error

	// Delete removes the object. That it is absent is no error. The removal is
	// durable when Delete returns nil.
	Delete(ctx context.Context, key string) error
}

// CheckKey returns an error that wraps ErrBadKey unless key is 1 to MaxKeyBytes
// bytes of non-empty segments joined by "/", each of at most 255 of the bytes
// A-Z a-z 0-9 - _ . = + and not starting with a dot. So no key can leave a
// directory, hide in it, or mean something else to a file system.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKeyBytes {
		return fmt.Errorf("%w: %d bytes long", ErrBadKey, len(key))
	}
	for segment := range strings.SplitSeq(key, "/") {
		if err := checkSegment(segment); err != nil {
			return fmt.Errorf("%w %q: %s", ErrBadKey, key, err)
		}
	}
	return nil
}

// CheckPrefix is CheckKey for the prefix of a List: it may be empty and may end
// anywhere in a key.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return CheckKey(prefix + "x")
}

func checkSegment(s string) error {
	switch {
	case s == "":
		return errors.New("empty segment")
	case len(s) > maxSegmentBytes:
		return errors.New("segment too long")
	case s[0] == '.':
		return errors.New("segment starts with a dot")
	}
	for i := range len(s) {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			c == '-' || c == '_' || c == '.' || c == '=' || c == '+'
		if !ok {
			return fmt.Errorf("byte %#02x not allowed", c)
		}
	}
	return nil
}
