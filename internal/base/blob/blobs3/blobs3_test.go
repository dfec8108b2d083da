package blobs3

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobtest"
)

func TestSuiteOnFake(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return newFake(t).open(t, nil) })
}

// isSafe fails if an error shows what a server said of the credentials.
func isSafe(t *testing.T, err error) {
	t.Helper()
	for _, secret := range []string{accessKey, secretKey, "Signature"} {
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows %q: %v", secret, err)
		}
	}
}

const body = "the body of the object"

// A server that answers wrongly: what Put says then, how often it asked, and
// whether the object is there.
func TestPutWrongAnswers(t *testing.T) {
	type wrong = func(f *fake, w http.ResponseWriter, r *request) bool
	always := func(do wrong) wrong {
		return func(f *fake, w http.ResponseWriter, r *request) bool { return do(f, w, r) }
	}
	first := func(do wrong) wrong {
		return func(f *fake, w http.ResponseWriter, r *request) bool { return r.n == 1 && do(f, w, r) }
	}
	answer := func(status int, code string) wrong {
		return func(f *fake, w http.ResponseWriter, r *request) bool {
			if err := r.read(); err != nil {
				f.t.Error(err)
			}
			return fail(w, status, code)
		}
	}
	stored := func(then wrong) wrong {
		return func(f *fake, w http.ResponseWriter, r *request) bool {
			if _, err := f.store(r); err != nil {
				f.t.Error(err)
			}
			return then(f, w, r)
		}
	}
	cutAfter := func(f *fake, w http.ResponseWriter, r *request) bool {
		if err := r.read(); err != nil {
			f.t.Error(err)
		}
		return cut(w)
	}
	cutBefore := func(_ *fake, w http.ResponseWriter, _ *request) bool { return cut(w) }
	for name, c := range map[string]struct {
		wrong wrong
		want  error
		asked int
		there bool
	}{
		"503 storm":                          {always(answer(503, "SlowDown")), blob.ErrUnknown, 3, false},
		"503 once":                           {first(answer(503, "SlowDown")), nil, 2, true},
		"500 after it was stored":            {first(stored(answer(500, "InternalError"))), blob.ErrExists, 2, true},
		"412 at once":                        {always(answer(412, "PreconditionFailed")), blob.ErrExists, 1, false},
		"409":                                {always(answer(409, "ConditionalRequestConflict")), blob.ErrUnknown, 3, false},
		"429":                                {always(answer(429, "TooManyRequests")), blob.ErrUnknown, 3, false},
		"400 timeout":                        {always(answer(400, "RequestTimeout")), blob.ErrUnknown, 3, false},
		"400 corrupted on the way":           {first(answer(400, "BadDigest")), nil, 2, true},
		"cut before the body":                {first(cutBefore), nil, 2, true},
		"cut after the body":                 {first(cutAfter), nil, 2, true},
		"cut after the body, always":         {always(cutAfter), blob.ErrUnknown, 3, false},
		"cut after it was stored":            {first(stored(cutAfter)), blob.ErrExists, 2, true},
		"503 with garbage":                   {always(garbage(503)), blob.ErrUnknown, 3, false},
		"denied":                             {always(answer(403, "AccessDenied")), blob.ErrRefused, 1, false},
		"no bucket":                          {always(answer(404, "NoSuchBucket")), blob.ErrRefused, 1, false},
		"another region":                     {always(answer(301, "PermanentRedirect")), blob.ErrRefused, 1, false},
		"clock":                              {always(answer(403, "RequestTimeTooSkewed")), blob.ErrRefused, 1, false},
		"denied after an attempt with 500":   {notFirst(answer(500, "InternalError"), answer(403, "AccessDenied")), blob.ErrUnknown, 2, false},
		"stored, cut, and then cut for ever": {notFirst(stored(cutAfter), cutAfter), blob.ErrUnknown, 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.set(func(f *fake, w http.ResponseWriter, r *request) bool {
				return r.Method == http.MethodPut && c.wrong(f, w, r)
			})
			s := f.open(t, nil)
			err := s.Put(t.Context(), "k", strings.NewReader(body), int64(len(body)))
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			isSafe(t, err)
			f.sameBytes(t)
			if n := f.sent(http.MethodPut); n != c.asked {
				t.Errorf("asked %d times, want %d", n, c.asked)
			}
			f.set(nil)
			if _, err := s.Stat(t.Context(), "k"); (err == nil) != c.there {
				t.Errorf("stat: %v", err)
			}
		})
	}
}

func notFirst(first, then func(f *fake, w http.ResponseWriter, r *request) bool) func(f *fake, w http.ResponseWriter, r *request) bool {
	return func(f *fake, w http.ResponseWriter, r *request) bool {
		if r.n == 1 {
			return first(f, w, r)
		}
		return then(f, w, r)
	}
}

func garbage(status int) func(f *fake, w http.ResponseWriter, r *request) bool {
	return func(_ *fake, w http.ResponseWriter, r *request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		fmt.Fprint(w, "<html><Error>"+strings.Repeat("\xff<&", 1000)+secretKey)
		return true
	}
}

// A server that answers before it read the body: the next attempt begins at its
// start, and what the old connection still wants to send is not read.
func TestPutAnsweredEarly(t *testing.T) {
	f := newFake(t)
	f.set(func(_ *fake, w http.ResponseWriter, r *request) bool {
		return r.Method == http.MethodPut && r.n < 3 && fail(w, 503, "SlowDown")
	})
	big := strings.Repeat("0123456789abcdef", 1<<19)
	var ended, late atomic.Bool
	src := readerAt(func(p []byte, off int64) (int, error) {
		if ended.Load() {
			late.Store(true)
		}
		return copy(p, big[off:]), nil
	})
	err := f.open(t, nil).Put(t.Context(), "k", src, int64(len(big)))
	ended.Store(true)
	if err != nil || string(f.objects["k"]) != big {
		t.Errorf("%v, %d bytes stored", err, len(f.objects["k"]))
	}
	f.Close() // and with it every connection
	if late.Load() {
		t.Error("the body was read after the put")
	}
}

type readerAt func([]byte, int64) (int, error)

func (f readerAt) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// A server that takes the request and never answers.
func TestDeadline(t *testing.T) {
	f := newFake(t)
	f.set(func(_ *fake, w http.ResponseWriter, r *request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		return true
	})
	s := f.open(t, func(c *Config) { c.Timeout = 50 * time.Millisecond })
	err := s.Put(t.Context(), "k", strings.NewReader(body), int64(len(body)))
	if !errors.Is(err, blob.ErrUnknown) || !strings.Contains(err.Error(), "in time") {
		t.Errorf("put: %v", err)
	}
	if _, err := s.GetRange(t.Context(), "k", 0, make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("get: %v", err)
	}
	// The caller's own end is told as such.
	s = f.open(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	f.set(func(_ *fake, w http.ResponseWriter, r *request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		cancel()
		<-r.Context().Done()
		return true
	})
	err = s.Put(ctx, "k", strings.NewReader(body), int64(len(body)))
	if !errors.Is(err, context.Canceled) || !errors.Is(err, blob.ErrUnknown) {
		t.Errorf("cancelled put: %v", err)
	}
	if d := s.within(10 << 20); d != 20*time.Second {
		t.Errorf("10 MiB may take %v", d)
	}
}

func TestGetWrongAnswers(t *testing.T) {
	const object = "0123456789"
	head := func(w http.ResponseWriter, status int, contentRange string, length int) {
		w.Header().Set("Last-Modified", time.Unix(1e9, 0).UTC().Format(http.TimeFormat))
		if contentRange != "" {
			w.Header().Set("Content-Range", contentRange)
		}
		w.Header().Set("Content-Length", fmt.Sprint(length))
		w.WriteHeader(status)
	}
	truncated := func(_ *fake, w http.ResponseWriter, r *request) bool {
		head(w, 206, "bytes 2-5/10", 4)
		fmt.Fprint(w, "23")
		return true
	}
	for name, c := range map[string]struct {
		wrong func(f *fake, w http.ResponseWriter, r *request) bool
		want  error // nil: the bytes; errAny: something else
		asked int
	}{
		"truncated once":   {func(f *fake, w http.ResponseWriter, r *request) bool { return r.n == 1 && truncated(f, w, r) }, nil, 2},
		"truncated always": {truncated, errAny, 3},
		"503 once":         {func(_ *fake, w http.ResponseWriter, r *request) bool { return r.n == 1 && fail(w, 503, "SlowDown") }, nil, 2},
		"503 storm":        {func(_ *fake, w http.ResponseWriter, _ *request) bool { return fail(w, 503, "SlowDown") }, errAny, 3},
		"cut":              {func(_ *fake, w http.ResponseWriter, r *request) bool { return r.n == 1 && cut(w) }, nil, 2},
		"no ranges": {func(_ *fake, w http.ResponseWriter, _ *request) bool {
			head(w, 200, "", 10)
			fmt.Fprint(w, object)
			return true
		}, errAny, 1},
		"another range": {func(_ *fake, w http.ResponseWriter, _ *request) bool {
			head(w, 206, "bytes 3-6/10", 4)
			fmt.Fprint(w, "3456")
			return true
		}, errAny, 1},
		"a shorter range": {func(_ *fake, w http.ResponseWriter, _ *request) bool {
			head(w, 206, "bytes 2-4/10", 3)
			fmt.Fprint(w, "234")
			return true
		}, errAny, 1},
		"the object ends": {func(_ *fake, w http.ResponseWriter, _ *request) bool {
			head(w, 206, "bytes 2-4/5", 3)
			fmt.Fprint(w, "234")
			return true
		}, blob.ErrRange, 1},
		"more bytes": {func(_ *fake, w http.ResponseWriter, _ *request) bool {
			head(w, 206, "bytes 2-5/10", 6)
			fmt.Fprint(w, "234567")
			return true
		}, errAny, 1},
		"no object": {func(_ *fake, w http.ResponseWriter, _ *request) bool { return fail(w, 404, "NoSuchKey") }, blob.ErrNotFound, 1},
		"no bucket": {func(_ *fake, w http.ResponseWriter, _ *request) bool { return fail(w, 404, "NoSuchBucket") }, blob.ErrRefused, 1},
		"denied":    {func(_ *fake, w http.ResponseWriter, _ *request) bool { return fail(w, 403, "AccessDenied") }, blob.ErrRefused, 1},
		"garbage":   {garbage(500), errAny, 3},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.objects["k"] = []byte(object)
			f.set(c.wrong)
			got := make([]byte, 4)
			n, err := f.open(t, nil).GetRange(t.Context(), "k", 2, got)
			switch {
			case c.want == nil:
				if err != nil || n != 4 || string(got) != "2345" {
					t.Errorf("%q, %v", got[:n], err)
				}
			case err == nil || n != 0:
				t.Errorf("%d bytes, %v", n, err)
			case c.want != errAny && !errors.Is(err, c.want):
				t.Errorf("got %v, want %v", err, c.want)
			case c.want == errAny && (errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrRange)):
				t.Errorf("a failure is told as an answer: %v", err)
			}
			isSafe(t, err)
			if asked := f.sent(http.MethodGet); asked != c.asked {
				t.Errorf("asked %d times, want %d", asked, c.asked)
			}
		})
	}
}

var errAny = errors.New("any")

func TestListWrongAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		wrong func(f *fake, w http.ResponseWriter, r *request) bool
		want  string // of the error; empty: none
	}{
		"garbage once":   {func(f *fake, w http.ResponseWriter, r *request) bool { return r.n == 1 && garbage(200)(f, w, r) }, ""},
		"garbage always": {garbage(200), "list"},
		"503 once":       {func(_ *fake, w http.ResponseWriter, r *request) bool { return r.n == 1 && fail(w, 503, "SlowDown") }, ""},
		"cut in the middle": {func(_ *fake, w http.ResponseWriter, r *request) bool {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, "<ListBucketResult><Contents><Key>a</Key>")
			return true
		}, "list"},
		"not in order": {func(_ *fake, w http.ResponseWriter, r *request) bool {
			writeList(w, []string{"b", "a"}, false, nil)
			return true
		}, "not in order"},
		"twice": {func(_ *fake, w http.ResponseWriter, r *request) bool {
			writeList(w, []string{"a", "a"}, false, nil)
			return true
		}, "not in order"},
		"others' keys": {func(_ *fake, w http.ResponseWriter, r *request) bool {
			writeList(w, []string{"zz"}, false, nil)
			return true
		}, ""},
		"denied": {func(_ *fake, w http.ResponseWriter, _ *request) bool { return fail(w, 403, "AccessDenied") }, "s3:ListBucket"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			for _, k := range []string{"a", "b"} {
				f.objects[k] = []byte("x")
			}
			f.set(c.wrong)
			prefix := ""
			if name == "others' keys" {
				prefix, c.want = "a", "not asked for"
			}
			var got []string
			err := f.open(t, nil).List(t.Context(), prefix, func(i blob.Info) error { got = append(got, i.Key); return nil })
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
			} else if diff := cmp.Diff([]string{"a", "b"}, got); err != nil || diff != "" {
				t.Error(err, diff)
			}
			isSafe(t, err)
		})
	}
}

// A listing skips the marks of directories and goes on after a failure on the way.
func TestListOfManyPages(t *testing.T) {
	f := newFake(t)
	var want []string
	for i := range 2*pageKeys + 7 {
		k := fmt.Sprintf("d/%06d", i)
		f.objects[k], want = []byte("x"), append(want, k)
	}
	f.objects["d/"], f.objects["d/.hidden"] = nil, nil
	f.set(func(_ *fake, w http.ResponseWriter, r *request) bool { return r.n == 2 && cut(w) })
	var got []string
	err := f.open(t, nil).List(t.Context(), "", func(i blob.Info) error { got = append(got, i.Key); return nil })
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

// A server that knows no conditions.
func TestUnconditional(t *testing.T) {
	for name, refuses := range map[string]bool{"refuses": true, "ignores": false} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.set(func(_ *fake, w http.ResponseWriter, r *request) bool {
				if r.Header.Get("If-None-Match") == "" {
					return false
				}
				r.Header.Del("If-None-Match")
				return refuses && fail(w, http.StatusNotImplemented, "NotImplemented")
			})
			s := f.open(t, nil)
			features, err := blob.Probe(t.Context(), s, "probe/")
			if err != nil || features.Conditional || s.Conditional() || len(f.objects) != 0 {
				t.Errorf("%+v, %v, left %d", features, err, len(f.objects))
			}
			put := func() error { return s.Put(t.Context(), "k", strings.NewReader(body), int64(len(body))) }
			if err := put(); err != nil {
				t.Error(err)
			}
			if err := put(); !errors.Is(err, blob.ErrExists) {
				t.Errorf("the second: %v", err)
			}
		})
	}
}

func TestNow(t *testing.T) {
	f := newFake(t)
	s := f.open(t, nil)
	f.set(func(_ *fake, w http.ResponseWriter, r *request) bool {
		w.Header().Set("Date", time.Unix(1e9, 0).UTC().Format(http.TimeFormat))
		return fail(w, 403, "AccessDenied") // whatever it answers
	})
	if now, err := s.Now(t.Context()); err != nil || now.Unix() != 1e9 {
		t.Error(now, err)
	}
	f.set(func(_ *fake, w http.ResponseWriter, r *request) bool {
		w.Header()["Date"] = nil
		return false
	})
	if now, err := s.Now(t.Context()); err == nil {
		t.Error("a time from nowhere:", now)
	}
}

func TestTLS(t *testing.T) {
	f := newFake(t)
	secure := httptest.NewUnstartedServer(f)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains of the client that does not trust it
	secure.StartTLS()
	defer secure.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	s := f.open(t, func(c *Config) { c.Endpoint, c.CAFile = secure.URL, ca })
	if err := s.Put(t.Context(), "k", strings.NewReader(body), int64(len(body))); err != nil || string(f.objects["k"]) != body {
		t.Error(err)
	}
	s = f.open(t, func(c *Config) { c.Endpoint = secure.URL })
	if _, err := s.Stat(t.Context(), "k"); !errors.Is(err, blob.ErrRefused) || !strings.Contains(err.Error(), "ca=FILE") {
		t.Errorf("unknown authority: %v", err)
	}
	s = f.open(t, func(c *Config) { c.Endpoint = strings.Replace(f.URL, "http:", "https:", 1) })
	if _, err := s.Stat(t.Context(), "k"); !errors.Is(err, blob.ErrRefused) {
		t.Errorf("http where https is wanted: %v", err)
	}
	if _, err := open(Config{Bucket: "bucket", CAFile: os.DevNull}.withDefaults()); err == nil {
		t.Error("no certificate in the file")
	}
}

func TestNoCredentials(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/") // in place of the machine's own service
	f := newFake(t)
	_, err := Open(t.Context(), Config{Bucket: "bucket", Endpoint: f.URL})
	if !errors.Is(err, blob.ErrRefused) || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Error(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "y")
	if _, err := Open(t.Context(), Config{Bucket: "bucket", Endpoint: f.URL}); err != nil {
		t.Error(err)
	}
}

// Open waits for nothing: a store that is away or busy may come.
func TestOpen(t *testing.T) {
	f := newFake(t)
	cfg := Config{Bucket: "bucket", Endpoint: f.URL, Credentials: static(accessKey, secretKey)}
	for status, want := range map[int]error{200: nil, 503: nil, 403: blob.ErrRefused} {
		f.set(func(_ *fake, w http.ResponseWriter, r *request) bool { return status != 200 && fail(w, status, "Some") })
		if _, err := Open(t.Context(), cfg); !errors.Is(err, want) {
			t.Errorf("%d: %v", status, err)
		}
	}
	cfg.Endpoint = "http://127.0.0.1:1"
	if _, err := Open(t.Context(), cfg); err != nil {
		t.Errorf("nobody there: %v", err)
	}
}

func TestParseURL(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-central-1")
	for url, want := range map[string]Config{
		"s3://my-bucket":    {Bucket: "my-bucket", Region: "eu-central-1"},
		"s3://my.bucket/p/": {Bucket: "my.bucket", Prefix: "p", Region: "eu-central-1"},
		"s3://bucket/a/b?endpoint=http://h:1&region=r&style=path&ca=/x/ca.pem": {
			Bucket: "bucket", Prefix: "a/b", Endpoint: "http://h:1", Region: "r", Style: "path", CAFile: "/x/ca.pem",
		},
	} {
		got, err := ParseURL(url)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Error(url, err, diff)
		}
	}
	for _, url := range []string{
		"", "s3:bucket", "http://bucket", "s3://", "s3://ab", "s3://Bucket", "s3://-bucket", "s3://bucket/a//b", "s3://bucket/../x",
		"s3://bucket?style=sideways", "s3://bucket?endpoint=host:1", "s3://bucket?endpoint=http://h/path", "s3://bucket?endpoint=http://u:secret@h",
		"s3://bucket?secret=1", "s3://bucket?region=a&region=b", "s3://id:secret@bucket", "s3://bucket#x", "s3://bucket?%zz",
	} {
		if _, err := ParseURL(url); err == nil || strings.Contains(err.Error(), "id:") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestKeyTooLongWithPrefix(t *testing.T) {
	f := newFake(t)
	s := f.open(t, func(c *Config) { c.Prefix = strings.Repeat("p/", 20) + "p" })
	key := strings.Repeat("x/", 500) + "x"
	if err := s.Put(t.Context(), key, strings.NewReader(""), 0); !errors.Is(err, blob.ErrBadKey) {
		t.Error(err)
	}
	if err := s.Put(t.Context(), "k", strings.NewReader(""), MaxObjectBytes+1); err == nil || f.sent(http.MethodPut) != 0 {
		t.Error("more than one PUT carries was sent")
	}
}

func TestBucketRules(t *testing.T) {
	rule := func(id, prefix, status, action string) string {
		return fmt.Sprintf("<Rule><ID>%s</ID><Filter><Prefix>%s</Prefix></Filter><Status>%s</Status>%s</Rule>", id, prefix, status, action)
	}
	const expires = "<Expiration><Days>30</Days></Expiration>"
	lifecycle := "<LifecycleConfiguration>" +
		rule("all", "", "Enabled", expires) + rule("ours", "tape/wal/", "Enabled", expires) + rule("above", "ta", "Enabled", expires) +
		rule("others", "logs/", "Enabled", expires) + rule("off", "", "Disabled", expires) +
		rule("parts", "", "Enabled", "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>") +
		rule("cold", "tape/", "Enabled", "<Transition><Days>30</Days><StorageClass>GLACIER</StorageClass></Transition>") +
		"</LifecycleConfiguration>"
	for name, c := range map[string]struct {
		lifecycle, versioning func(w http.ResponseWriter) bool
		want                  BucketRules
		err                   error
	}{
		"rules": {
			func(w http.ResponseWriter) bool { fmt.Fprint(w, lifecycle); return true },
			func(w http.ResponseWriter) bool {
				fmt.Fprint(w, "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
				return true
			},
			BucketRules{Deletes: []string{`"all"`, `"ours" on tape/wal/`, `"above" on ta`}, Moves: []string{`"cold" on tape/`}, Versioned: true}, nil,
		},
		"none": {
			func(w http.ResponseWriter) bool { return fail(w, 404, "NoSuchLifecycleConfiguration") },
			func(w http.ResponseWriter) bool { fmt.Fprint(w, "<VersioningConfiguration/>"); return true }, BucketRules{}, nil,
		},
		"not implemented": {
			func(w http.ResponseWriter) bool { return fail(w, 501, "NotImplemented") },
			func(w http.ResponseWriter) bool { return fail(w, 501, "NotImplemented") }, BucketRules{}, nil,
		},
		"denied": {func(w http.ResponseWriter) bool { return fail(w, 403, "AccessDenied") }, nil, BucketRules{}, blob.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.set(func(_ *fake, w http.ResponseWriter, r *request) bool {
				if r.URL.Query().Has("lifecycle") {
					return c.lifecycle(w)
				}
				return r.URL.Query().Has("versioning") && c.versioning(w)
			})
			got, err := f.open(t, func(c *Config) { c.Prefix = "tape" }).BucketRules(t.Context())
			if diff := cmp.Diff(c.want, got); !errors.Is(err, c.err) || diff != "" {
				t.Error(err, diff)
			}
			isSafe(t, err)
		})
	}
}

// The pool of connections is bounded, and who waits for one gets it.
func TestConnectionsAreBounded(t *testing.T) {
	f := newFake(t)
	var now, most atomic.Int32
	f.set(func(_ *fake, w http.ResponseWriter, r *request) bool {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		f.serve(w, r)
		return true
	})
	s := f.open(t, func(c *Config) { c.MaxConns = 2 })
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if err := s.Put(t.Context(), fmt.Sprint("k", i), strings.NewReader(body), int64(len(body))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() > 2 {
		t.Errorf("%d connections at a time, want 2", most.Load())
	}
}
