//go:build demo

package demo

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

// TestRollback wants the rollback decision within 90 s of the start, and a
// clean end on Ctrl-C.
func TestRollback(t *testing.T) {
	s := rig.Prepare(t, "demo")
	began := time.Now()
	s.Start()
	var action, release string
	rig.Until(t, 90*time.Second, func() error {
		res, err := http.Get(s.API + "/v1/decisions")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		var a struct {
			Decisions []struct {
				Decision struct{ Action, Release string } `json:"decision"`
				Action   string                           `json:"action"`
				Release  string                           `json:"release"`
			} `json:"decisions"`
		}
		if err := json.Unmarshal(b, &a); err != nil {
			return err
		}
		for _, d := range a.Decisions {
			if d.Action == "rollback" || d.Decision.Action == "rollback" {
				action, release = "rollback", d.Release+d.Decision.Release
				return nil
			}
		}
		return errNoDecision
	})
	took := time.Since(began)
	t.Logf("result: %s of %s after %s", action, release, took.Round(100*time.Millisecond))
	rig.Until(t, 10*time.Second, func() error {
		if !strings.Contains(s.Output(), "ROLLBACK") || !strings.Contains(s.Output(), s.API) {
			return errNotPrinted
		}
		return nil
	})
	if err := s.Interrupt(30 * time.Second); err != nil {
		t.Errorf("Ctrl-C did not stop it cleanly: %v", err)
	}
}

type problem string

func (p problem) Error() string { return string(p) }

const (
	errNoDecision = problem("no rollback yet")
	errNotPrinted = problem("the terminal does not show the decision and the page to open")
)

// TestNoDefect runs three minutes of wall clock with the defect off: no
// rollback.
func TestNoDefect(t *testing.T) {
	d := "3m"
	if v := os.Getenv("LOOPTAPE_NO_DEFECT_FOR"); v != "" {
		d = v
	}
	s := rig.Prepare(t, "demo", "--no-defect", "--for", d)
	s.Start()
	if err := s.Wait(5 * time.Minute); err != nil {
		t.Fatalf("%v\n%s", err, s.Output())
	}
	if strings.Contains(s.Output(), "ROLLBACK") {
		t.Errorf("a release without a defect was rolled back:\n%s", s.Output())
	}
	if !strings.Contains(s.Output(), "no rollback") {
		t.Errorf("the end does not say that there was no rollback:\n%s", s.Output())
	}
}
