package diskmem

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/looptape/looptape/internal/base/disk"
)

func create(t *testing.T, m *FS, name, data string) disk.File {
	t.Helper()
	f, err := m.OpenFile(name, disk.Mode{Write: true, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(data), 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCrashKeepsWhatWasSynced(t *testing.T) {
	m := New(0)
	if err := m.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	synced := create(t, m, "/d/synced", "one")
	create(t, m, "/d/named", "two")
	if err := errors.Join(synced.Datasync(), m.SyncDir("/d")); err != nil {
		t.Fatal(err)
	}
	create(t, m, "/d/unnamed", "three")
	if _, err := synced.WriteAt([]byte("four"), 512); err != nil {
		t.Fatal(err)
	}
	if err := m.Rename("/d/named", "/d/renamed"); err != nil {
		t.Fatal(err)
	}
	after := m.Crash(nil)
	for name, want := range map[string][]byte{
		"/d/synced": []byte("one"), "/d/named": {}, "/d/unnamed": nil, "/d/renamed": nil,
	} {
		if got := after.Bytes(name); !bytes.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	// With luck more is left; a rename always leaves exactly one name.
	seen := map[string]bool{}
	for seed := range uint64(200) {
		c := m.Crash(rand.New(rand.NewPCG(seed, 1)))
		old, renamed := c.Bytes("/d/named") != nil, c.Bytes("/d/renamed") != nil
		if old == renamed {
			t.Fatalf("seed %d: old name %v, new name %v", seed, old, renamed)
		}
		if renamed {
			seen["renamed"] = true
		}
		if len(c.Bytes("/d/synced")) > 3 {
			seen["written"] = true
		}
		if !bytes.HasPrefix(c.Bytes("/d/synced"), []byte("one")) {
			t.Fatalf("seed %d: lost what was synced", seed)
		}
	}
	if !seen["renamed"] || !seen["written"] {
		t.Errorf("crashes too kind or too cruel: %v", seen)
	}
}

func TestFailAtAndStopAt(t *testing.T) {
	m := New(0)
	f := create(t, m, "/f", "")
	boom := errors.New("boom")
	m.FailAt(2, boom)
	_, first := f.WriteAt(make([]byte, 2048), 0)
	_, second := f.WriteAt(bytes.Repeat([]byte("x"), 2048), 0)
	third := f.Datasync()
	if first != nil || !errors.Is(second, boom) || third != nil {
		t.Errorf("got %v, %v, %v", first, second, third)
	}
	if n := bytes.Count(m.Bytes("/f"), []byte("x")); n != 1024 {
		t.Errorf("failed write left %d bytes", n)
	}
	before := m.Calls()
	m.StopAt(1)
	for range 2 {
		if err := m.SyncDir("/"); !errors.Is(err, ErrStopped) {
			t.Errorf("got %v", err)
		}
	}
	if m.Calls() != before+2 {
		t.Errorf("%d calls", m.Calls()-before)
	}
}

func TestDirectWantsAlignment(t *testing.T) {
	m := New(512)
	f, err := m.OpenFile("/f", disk.Mode{Write: true, Create: true, Direct: true})
	if err != nil || f.DirectAlign() != 512 {
		t.Fatal(err)
	}
	mem := disk.Aligned(1024, 512)
	for name, c := range map[string]struct {
		p   []byte
		off int64
		ok  bool
	}{
		"aligned": {mem[:512], 512, true},
		"length":  {mem[:500], 0, false},
		"offset":  {mem[:512], 100, false},
		"memory":  {mem[1:513], 0, false},
	} {
		_, err := f.WriteAt(c.p, c.off)
		if c.ok != (err == nil) || err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
