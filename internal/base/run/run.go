// Package run starts, names, watches and stops goroutines.
//
// A Group owns a set of named goroutines that share one context. The first one
// that returns an error (or panics) cancels the context of all; Wait returns
// when every goroutine has ended, with that first error. Nothing outlives its
// Group, so a program that waits for its groups leaves no goroutine behind
// (invariant I12).
//
//	g := run.New(ctx)
//	g.Go("flusher", store.Run)
//	g.Go("listener", server.Run)
//	err := g.Wait()
package run

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// A Group is a set of named goroutines with one context. Use New.
type Group struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	mu     sync.Mutex // guards err
	err    error
}

// New returns a group whose goroutines run until ctx ends, until one of them
// fails or until Stop.
func New(ctx context.Context) *Group {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Group{ctx: ctx, cancel: cancel}
}

// Context is the context given to the group's goroutines.
func (g *Group) Context() context.Context { return g.ctx }

// Go starts fn under name. An error other than the context's own ends the whole
// group; a panic is an error that carries its stack.
func (g *Group) Go(name string, fn func(ctx context.Context) error) {
	g.wg.Go(func() {
		if err := call(g.ctx, fn); err != nil && !stopped(g.ctx, err) {
			g.fail(fmt.Errorf("%s: %w", name, err))
		}
	})
}

// Stop asks every goroutine to end; Wait then returns nil unless one failed.
func (g *Group) Stop() { g.cancel(context.Canceled) }

// Wait waits for every goroutine and returns the first error.
func (g *Group) Wait() error {
	g.wg.Wait()
	g.cancel(context.Canceled)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *Group) fail(err error) {
	g.mu.Lock()
	if g.err == nil {
		g.err = err
	}
	g.mu.Unlock()
	g.cancel(err)
}

func call(ctx context.Context, fn func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return fn(ctx)
}

// stopped tells an error that is only the echo of a stop from a failure.
func stopped(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx)))
}

// Sleep waits for d to pass, or for ctx to end, whose error it then returns.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
