package web

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/view"
)

// run follows changes in fake time and returns what is written, with the time
// since the start.
type written struct {
	at   time.Duration
	text string
}

func TestFollowGathersAndBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		changes := make(chan view.Change, 16)
		begin := time.Now()
		var out []written
		done := make(chan error, 1)
		go func() {
			done <- follow(ctx, changes, []byte("hello"), func(b []byte) error {
				out = append(out, written{time.Since(begin), string(b)})
				return nil
			})
		}()
		synctest.Wait()
		for i := range 3 {
			changes <- view.Change{Events: []view.EventRow{{ID: string(rune('a' + i))}}, EventCount: 1, Points: []view.Point{{Release: "r", Seq: int64(i)}}}
			time.Sleep(40 * time.Millisecond)
		}
		changes <- view.Change{Decisions: []view.DecisionRow{{ID: "d", Decision: event.Decision{Action: "hold"}}}}
		time.Sleep(liveHeartbeat)
		changes <- view.Change{EventCount: 5}
		changes <- view.Change{Resync: true}
		time.Sleep(time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(out) != 4 {
			t.Fatalf("%d writes: %v", len(out), out)
		}
		if out[0] != (written{0, "hello"}) {
			t.Errorf("first: %v", out[0])
		}
		w := out[1]
		if w.at != liveGather || strings.Count(w.text, "event: ") != 3 || !strings.Contains(w.text, `"count":3`) || !strings.Contains(w.text, `"seq":2`) || strings.Contains(w.text, `"seq":1`) || !strings.Contains(w.text, "event: decision") {
			t.Errorf("gathered: %v", w)
		}
		if out[2] != (written{liveHeartbeat, ": alive\n\n"}) {
			t.Errorf("heartbeat: %v", out[2])
		}
		if !strings.HasPrefix(out[3].text, "event: resync") || strings.Contains(out[3].text, "event: events") {
			t.Errorf("resync: %v", out[3])
		}
	})
}

func TestFollowEndsWithItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("gone")
		n := 0
		err := follow(t.Context(), make(chan view.Change), []byte("hello"), func([]byte) error {
			if n++; n == 3 {
				return gone
			}
			return nil
		})
		if !errors.Is(err, gone) || n != 3 {
			t.Errorf("%v after %d writes", err, n)
		}
	})
}

func TestMergeIsBounded(t *testing.T) {
	var c view.Change
	shared := view.Change{Tenant: "default", EventCount: 40, Points: []view.Point{{Release: "a"}, {Release: "b"}}}
	for range 40 {
		shared.Events = append(shared.Events, view.EventRow{ID: "e"})
		shared.Decisions = append(shared.Decisions, view.DecisionRow{ID: "d"})
	}
	for range 10 {
		c = merge(c, shared)
	}
	if len(c.Events) != liveEvents || len(c.Decisions) != liveEvents || len(c.Points) != 2 || c.EventCount != 400 {
		t.Errorf("%d events, %d decisions, %d points, count %d", len(c.Events), len(c.Decisions), len(c.Points), c.EventCount)
	}
}

func TestMessageIsOneLine(t *testing.T) {
	b := string(message("events", map[string]string{"x": "a\n\ndata: forged\r\u2028"}))
	if strings.Count(b, "\n") != 3 || !strings.HasSuffix(b, "\n\n") || strings.Contains(b, "\r") {
		t.Errorf("%q", b)
	}
}
