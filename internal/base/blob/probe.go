package blob

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
)

// Features are what one store can do and another can't.
type Features struct {
	// Conditional: Put is create-only even when two writers call it at the same
	// time. Without it a Put looks first and then writes, and the later of two
	// racing writers wins, though both are told nil: whoever relies on ErrExists
	// has to check its right to write by other means, after each Put.
	Conditional bool
}

// A Conditioner is a Store that can do without create-only requests, on a server
// that has none. It begins with Conditional true. As finds it.
type Conditioner interface {
	Conditional() bool
	SetConditional(bool)
}

// probers is how many Puts of one key Probe sends at the same time.
const probers = 4

// Probe finds out what s can do, with a few small objects under prefix, which it
// deletes again. A Conditioner is set to what was found. An error says that the
// store can't be used, or not now.
func Probe(ctx context.Context, s Store, prefix string) (Features, error) {
	c, _ := As[Conditioner](s)
	if c != nil {
		c.SetConditional(true)
	}
	var nonce [12]byte
	rand.Read(nonce[:])
	base := prefix + "probe-" + hex.EncodeToString(nonce[:])
	f, err := probe(ctx, s, base)
	// Also after a failure, as far as that goes.
	for _, key := range []string{base + "-1", base + "-2"} {
		if derr := s.Delete(ctx, key); err == nil && derr != nil {
			err = derr
		}
	}
	if err != nil {
		return Features{}, fmt.Errorf("probe object store: %w", err)
	}
	if c != nil {
		// A server that refused the request is known by now to its Conditioner.
		f.Conditional = f.Conditional && c.Conditional()
		c.SetConditional(f.Conditional)
	}
	return f, nil
}

func probe(ctx context.Context, s Store, base string) (Features, error) {
	// One after the other: a store that knows no condition replaces the object.
	first, second := []byte("first"), []byte("second")
	if err := s.Put(ctx, base+"-1", bytes.NewReader(first), int64(len(first))); err != nil {
		return Features{}, err
	}
	switch err := s.Put(ctx, base+"-1", bytes.NewReader(second), int64(len(second))); {
	case err == nil:
		return Features{}, nil
	case !errors.Is(err, ErrExists):
		return Features{}, err
	}
	got := make([]byte, len(first))
	if _, err := s.GetRange(ctx, base+"-1", 0, got); err != nil {
		return Features{}, err
	}
	if !bytes.Equal(got, first) {
		return Features{}, fmt.Errorf("%s was answered as taken and was replaced", base+"-1")
	}
	// At the same time: a store that looks first and writes then lets two win.
	errs := make([]error, probers)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			body := []byte{byte(i)}
			errs[i] = s.Put(ctx, base+"-2", bytes.NewReader(body), 1)
		})
	}
	wg.Wait()
	won, winner := 0, 0
	for i, err := range errs {
		switch {
		case err == nil:
			won, winner = won+1, i
		case !errors.Is(err, ErrExists):
			return Features{}, err
		}
	}
	if won != 1 {
		return Features{}, nil
	}
	if _, err := s.GetRange(ctx, base+"-2", 0, got[:1]); err != nil {
		return Features{}, err
	}
	return Features{Conditional: got[0] == byte(winner)}, nil
}
