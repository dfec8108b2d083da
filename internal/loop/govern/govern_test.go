package govern

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/loop/event"
)

// objects is a small store with the failures that matter here.
type objects struct {
	mu     sync.Mutex
	m      map[string][]byte
	before error // of the next Put, before it stored
	after  error // of the next Put, after it stored
}

func (o *objects) Put(_ context.Context, key string, body io.ReaderAt, size int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	if err := o.before; err != nil {
		o.before = nil
		return err
	}
	if _, taken := o.m[key]; taken {
		return blob.ErrExists
	}
	b := make([]byte, size)
	if _, err := body.ReadAt(b, 0); err != nil && err != io.EOF {
		return err
	}
	o.m[key] = b
	err := o.after
	o.after = nil
	return err
}

func (o *objects) GetRange(_ context.Context, key string, off int64, dst []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b, ok := o.m[key]
	if !ok {
		return 0, blob.ErrNotFound
	}
	if off+int64(len(dst)) > int64(len(b)) {
		return 0, blob.ErrRange
	}
	return copy(dst, b[off:]), nil
}

var _ Objects = blob.Store(nil)

func TestClaims(t *testing.T) {
	ctx := context.Background()
	store := &objects{m: map[string][]byte{}}
	c := NewClaims(store)
	body := bytes.Repeat([]byte(`{"a":1}`), 100_000)
	ref, err := c.Put(ctx, "acme", "e1", body)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Put(ctx, "acme", "e1", body)
	if err != nil || again != ref {
		t.Fatalf("second put: %q %v, want %q", again, err, ref)
	}
	e := event.Event{ID: "e1", DataRef: ref, Facts: event.Facts{Tenant: "acme"}}
	if err := c.Resolve(ctx, &e); err != nil || !bytes.Equal(e.Data, body) {
		t.Fatalf("resolve: %v, %d bytes", err, len(e.Data))
	}
	other := event.Event{ID: "e1", DataRef: ref, Facts: event.Facts{Tenant: "evil"}}
	if err := c.Resolve(ctx, &other); !errors.Is(err, blob.ErrNotFound) || other.Data != nil {
		t.Errorf("another tenant resolves: %v", err)
	}
	for key := range store.m {
		store.m[key][10] ^= 1
	}
	e.Data = nil
	if err := c.Resolve(ctx, &e); !errors.Is(err, ErrCorruptClaim) || e.Data != nil {
		t.Errorf("corrupt: %v", err)
	}
	if _, err := c.Put(ctx, "acme", "e1", body); err == nil {
		t.Error("put over a corrupt object reports success")
	}
}

func TestClaimOutcomes(t *testing.T) {
	ctx := context.Background()
	store := &objects{m: map[string][]byte{}, before: blob.ErrUnknown}
	c := NewClaims(store)
	if _, err := c.Put(ctx, "t", "e", []byte("x")); !errors.Is(err, blob.ErrUnknown) {
		t.Errorf("failed before it stored: %v", err)
	}
	store.after = blob.ErrUnknown
	if _, err := c.Put(ctx, "t", "e", []byte("x")); err != nil {
		t.Errorf("stored, answer lost: %v", err)
	}
}

func TestBadClaims(t *testing.T) {
	c := NewClaims(&objects{m: map[string][]byte{}})
	h := strings.Repeat("0", 64)
	for _, ref := range []string{"x", "claim:sha256/", "claim:sha256/" + h, "claim:sha256/" + h + "/-1", "claim:sha256/" + h + "/999999999999",
		"claim:sha256/../../x/1", "claim:sha256/" + strings.Repeat("g", 64) + "/1", "https://example.com/x"} {
		e := event.Event{ID: "e", DataRef: ref}
		if err := c.Resolve(context.Background(), &e); !errors.Is(err, ErrBadClaim) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	e := event.Event{ID: "e", Data: []byte("{}")}
	if err := c.Resolve(context.Background(), &e); err != nil {
		t.Error(err)
	}
}

func TestTenantSegments(t *testing.T) {
	seen := map[string]string{}
	for _, tenant := range []string{"a", "A", "", "a/b", "../x", "=61", "-a", "ä", strings.Repeat("x", 65)} {
		s := tenantSegment(tenant)
		if err := blob.CheckKey("claims/" + s + "/00/00"); err != nil {
			t.Errorf("%q: %v", tenant, err)
		}
		if was, taken := seen[s]; taken {
			t.Errorf("%q and %q share %q", tenant, was, s)
		}
		seen[s] = tenant
	}
}

func TestPseudonyms(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys", "pseudonym.key")
	var wg sync.WaitGroup
	got := make([]string, 8)
	for i := range got {
		wg.Go(func() {
			p, err := OpenPseudonyms(file)
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = p.Pseudonym("acme", "alice@example.com")
		})
	}
	wg.Wait()
	for _, g := range got {
		if g != got[0] || strings.Contains(g, "alice") || !isPseudonym(g) {
			t.Errorf("pseudonyms %q and %q", g, got[0])
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
	left, _ := os.ReadDir(filepath.Dir(file))
	if len(left) != 1 {
		t.Errorf("%d files left", len(left))
	}
	p, err := OpenPseudonyms(file)
	if err != nil {
		t.Fatal(err)
	}
	if a := p.Pseudonym("acme", got[0]); a != got[0] {
		t.Errorf("pseudonym of a pseudonym: %q", a)
	}
	if p.Pseudonym("other", "alice@example.com") == got[0] || p.Pseudonym("acme", "bob") == got[0] || p.Pseudonym("acme", "") != "" {
		t.Error("pseudonyms do not tell tenants and people apart")
	}
}

func TestPseudonymKeyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k")
	for name, tt := range map[string]struct {
		content string
		mode    os.FileMode
	}{"short": {"abc", 0o600}, "not hex": {strings.Repeat("z", 64), 0o600}, "open": {strings.Repeat("0", 64), 0o644}} {
		os.Remove(file)
		if err := os.WriteFile(file, []byte(tt.content), tt.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenPseudonyms(file); err == nil {
			t.Errorf("%s key file was taken", name)
		}
		if b, _ := os.ReadFile(file); string(b) != tt.content {
			t.Errorf("%s key file was changed", name)
		}
	}
}

func FuzzParseClaim(f *testing.F) {
	f.Add("claim:sha256/" + strings.Repeat("a", 64) + "/12")
	f.Fuzz(func(t *testing.T, ref string) {
		if _, size, err := parseClaim(ref); err == nil && (size <= 0 || size > MaxClaimBytes) {
			t.Errorf("size %d", size)
		}
	})
}
