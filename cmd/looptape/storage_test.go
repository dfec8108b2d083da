package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/bloburl"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metaurl"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/inspect"
	"github.com/looptape/looptape/internal/broker/store/object"
	"github.com/looptape/looptape/internal/broker/store/read"
)

var update = flag.Bool("update", false, "write the golden files")

// store is one as a broker leaves it: a topic of two partitions in two objects, an
// orphan, and the marks.
type store struct {
	t       *testing.T
	meta    meta.Store
	blobs   blob.Store
	catalog *catalog.Catalog
	writer  *catalog.Writer
	objects []string // keys
}

func newStore(t *testing.T, metaURL, blobURL string) *store {
	t.Helper()
	s := &store{t: t}
	var err error
	s.meta, err = metaurl.Open(t.Context(), metaURL)
	s.check(err)
	s.blobs, err = bloburl.Open(t.Context(), blobURL)
	s.check(err)
	s.catalog, err = catalog.Open(t.Context(), s.meta, catalog.Config{})
	s.check(err)
	s.writer, _, err = s.catalog.Register(t.Context(), catalog.Registration{Kind: catalog.FileLog, URI: "wal"})
	s.check(err)
	topic, err := s.catalog.CreateTopic(t.Context(), catalog.Topic{Name: "orders", Partitions: 2})
	s.check(err)
	s.put("cluster", []byte(s.catalog.ClusterID()))
	s.put(fmt.Sprintf("epochs/%s/0/%020d", s.catalog.ClusterID(), 1), make([]byte, 16))
	part := func(index int32, base, end int64) object.Part {
		p := object.Part{Topic: topic.ID, Partition: index, Tail: object.Tail{TopicName: topic.Name, Base: base, End: end, LastStable: end}}
		for o := base; o < end; o++ {
			h := batch.Plain
			h.BaseOffset = o
			b := batch.Build(h, batch.KV{Timestamp: 1, Value: fmt.Appendf(nil, "record %d", o)})
			p.Units = append(p.Units, object.Unit{Base: o, Last: o, MaxTimestamp: 1, Batches: 1, Bytes: b})
		}
		return p
	}
	both, single := s.object(1, part(0, 0, 5), part(1, 0, 3)), s.object(2, part(0, 5, 9))
	s.check(s.writer.Commit(t.Context(), catalog.Commit{Epoch: 1, LSN: 12, Objects: []catalog.NewObject{both, single}}))
	s.object(3, part(1, 3, 4)) // never committed
	return s
}

func (s *store) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) put(key string, b []byte) {
	s.t.Helper()
	s.check(s.blobs.Put(s.t.Context(), key, bytes.NewReader(b), int64(len(b))))
}

func (s *store) object(seq int64, parts ...object.Part) catalog.NewObject {
	s.t.Helper()
	p, err := object.Pack(object.Footer{Identity: object.Identity{Cluster: s.catalog.ClusterID(), Epoch: 1, Kind: object.Flush, Seq: seq}, WALEpoch: 1}, 0, parts)
	s.check(err)
	b, err := io.ReadAll(io.NewSectionReader(p, 0, p.Size()))
	s.check(err)
	f := p.Footer
	s.objects = append(s.objects, object.Key(s.catalog.ClusterID(), f.Identity.Name()))
	s.put(s.objects[len(s.objects)-1], b)
	return catalog.NewObject{
		Object: &catalog.Object{Name: f.Identity.Name(), Size: p.Size(), Partitions: int32(len(parts)), IndexPos: f.IndexPos, IndexLen: f.IndexLen, IndexCRC: f.IndexCRC, Blocks: f.Blocks},
		Ranges: read.Ranges(&p.Index), Single: len(parts) == 1,
	}
}

// ofData makes a store in the data directory of a server, as `serve` does.
func ofData(t *testing.T) (dir string, s *store) {
	t.Helper()
	t.Setenv("LOOPTAPE_BLOB", "")
	t.Setenv("LOOPTAPE_META", "")
	dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tape"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir, newStore(t, filepath.Join(dir, "tape", "meta.db"), filepath.Join(dir, "tape", "objects"))
}

// damage flips a bit in the first batch of the first object.
func (s *store) damage() {
	s.t.Helper()
	info, err := s.blobs.Stat(s.t.Context(), s.objects[0])
	s.check(err)
	b := make([]byte, info.Size)
	_, err = s.blobs.GetRange(s.t.Context(), s.objects[0], 0, b)
	s.check(err)
	b[object.HeaderSize+70] ^= 1
	s.check(s.blobs.Delete(s.t.Context(), s.objects[0]))
	s.put(s.objects[0], b)
}

// run runs a command and returns what it printed, without what changes from run to
// run.
func (s *store) run(args ...string) (out string, code int) {
	var stdout, stderr bytes.Buffer
	code = command(append([]string{"storage"}, args...), &stdout, &stderr)
	out = strings.ReplaceAll(stdout.String()+stderr.String(), s.catalog.ClusterID(), "CLUSTER---------------")
	for _, c := range []struct{ pattern, with string }{
		{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, "TIME----------------"},
		{`took \S+`, "took TIME"},
		{`[\d.]+ [KMGT]iB free of [\d.]+ [GTM]iB under [^\s"]+`, "SPACE free under DIR"},
		{regexp.QuoteMeta(os.TempDir()) + `/\S+?/(tape|none)`, "DIR/$1"},
		{`127\.0\.0\.1:\d+`, "HOST:PORT"},
		{`crc [0-9a-f]{8}, want [0-9a-f]{8}`, "crc X, want Y"},
	} {
		out = regexp.MustCompile(c.pattern).ReplaceAllString(out, c.with)
	}
	return out, code
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "storage", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestStorage(t *testing.T) {
	dir, s := ofData(t)
	s.check(s.meta.Close()) // the server has stopped
	nobody := "--api=http://127.0.0.1:1"
	for _, c := range []struct {
		golden string
		code   int
		args   []string
	}{
		{"stats.txt", 0, []string{"stats", "--data", dir, nobody}},
		{"stats.json", 0, []string{"stats", "--json", "--data", dir, nobody}},
		{"objects.txt", 0, []string{"objects", "--data", dir, nobody}},
		{"objects-data.json", 0, []string{"objects", "--class=data", "--json", "--data", dir, nobody}},
		{"objects-class.txt", 2, []string{"objects", "--class=junk", "--data", dir, nobody}},
		{"verify.txt", 0, []string{"verify", "-q", "--data", dir, nobody}},
		{"verify.json", 0, []string{"verify", "--json", "--data", dir, nobody}},
		{"verify-objects.txt", 0, []string{"verify", "-q", "--data", filepath.Join(dir, "none"), "--blob", filepath.Join(dir, "tape", "objects"), nobody}},
		{"nothing.txt", 1, []string{"stats", "--data", filepath.Join(dir, "none"), nobody}},
		{"help.txt", 0, []string{"--help"}},
	} {
		got, code := s.run(c.args...)
		if code != c.code {
			t.Errorf("%s: exit code %d, want %d: %s", c.golden, code, c.code, got)
		}
		golden(t, c.golden, got)
	}
	s.damage()
	for name, args := range map[string][]string{
		"damage.txt": {"verify", "-q", "--data", dir, nobody}, "damage.json": {"verify", "--json", "--data", dir, nobody},
	} {
		got, code := s.run(args...)
		if code != 1 {
			t.Errorf("%s: exit code %d", name, code)
		}
		golden(t, name, got)
	}
}

func TestStorageDoctor(t *testing.T) {
	dir, s := ofData(t)
	s.check(s.meta.Close())
	got, code := s.run("doctor", "--data", dir, "--api=http://127.0.0.1:1")
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	golden(t, "doctor.txt", dropLine(got, "disk space"))
	// A mark of an epoch that the metadata has never heard of.
	s.put(fmt.Sprintf("epochs/%s/0/%020d", s.catalog.ClusterID(), 7), make([]byte, 16))
	got, code = s.run("doctor", "--json", "--data", dir, "--api=http://127.0.0.1:1")
	var checks []inspect.Check
	if err := json.Unmarshal([]byte(got), &checks); err != nil || code != 1 {
		t.Errorf("exit code %d, %v", code, err)
	}
	if !strings.Contains(got, "the metadata is an old copy") {
		t.Error(got)
	}
}

// dropLine leaves out a check that is another on every machine, with its advice.
func dropLine(text, name string) string {
	return regexp.MustCompile(`(?m)^\w+ +`+name+` .*\n( +→.*\n)?`).ReplaceAllString(text, "")
}

// While a server has the metadata open, it is asked.
func TestStorageOfRunningServer(t *testing.T) {
	dir, s := ofData(t)
	defer s.meta.Close()
	live := inspect.Live{Cluster: s.catalog.ClusterID(), Epoch: 1, Since: time.Now().Add(-time.Hour), Calls: blob.Counts{Puts: 42, Gets: 7}, Cache: inspect.LiveCache{Hits: 3, Misses: 1}}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/storage":
			_ = json.NewEncoder(w).Encode(live)
		case "/v1/storage/catalog":
			snapshot, err := s.catalog.Snapshot(context.Background())
			if err != nil {
				t.Error(err)
			}
			b, err := inspect.Shown(snapshot).Encode()
			if err != nil {
				t.Error(err)
			}
			_, _ = w.Write(b)
		}
	}))
	defer api.Close()
	got, code := s.run("stats", "--data", dir, "--api", api.URL)
	got = regexp.MustCompile(`since .*, as`).ReplaceAllString(got, "since TIME, as")
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	golden(t, "stats-running.txt", got)
	got, code = s.run("verify", "-q", "--data", dir, "--api", api.URL)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	golden(t, "verify.txt", got)
	// And when it does not answer, objects speak for themselves.
	got, code = s.run("verify", "-q", "--data", dir, "--api=http://127.0.0.1:1")
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	golden(t, "verify-silent.txt", got)
	// A server of another store is none.
	live.Cluster = "another"
	got, code = s.run("stats", "--data", dir, "--api", api.URL)
	if code != 0 || !strings.Contains(got, "has another store") || strings.Contains(got, "requests") {
		t.Errorf("exit code %d: %s", code, got)
	}
}
