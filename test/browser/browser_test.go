//go:build browser

package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

// TestDemo wants the demo's decision on the page, a case opened from it, and
// pictures of both.
func TestDemo(t *testing.T) {
	s := rig.Prepare(t, "demo")
	s.Start()
	s.Ready(60 * time.Second)
	look(t, s.API, "demo")
	if err := s.Interrupt(30 * time.Second); err != nil {
		t.Errorf("end of the demo: %v", err)
	}
}

// TestPreview wants the same of the made-up log, whose numbers never change.
func TestPreview(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "preview")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/looptape/looptape/test/browser/preview").CombinedOutput(); err != nil {
		t.Fatalf("build the preview: %v\n%s", err, out)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", rig.Port(t))
	rig.Start(t, t.TempDir(), bin, "-addr", addr, "-units", "150", "-every", "60ms", "-decided=false")
	look(t, "http://"+addr, "preview")
}

func look(t *testing.T, url, name string) {
	t.Helper()
	dir := os.Getenv("ARTIFACTS")
	if dir == "" {
		dir = "artifacts"
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(rig.Root(), dir)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "page.mjs")
	cmd.Env = append(os.Environ(), "LOOPTAPE_URL="+url, "ARTIFACTS="+filepath.Join(dir, "browser", name))
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("the page of %s: %v", name, err)
	}
}
