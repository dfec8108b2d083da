package blobs3

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	accessKey = "the-access-key"
	secretKey = "the-secret-key"
)

func static(key, secret string) *credentials.Credentials {
	return credentials.NewStaticV4(key, secret, "")
}

// fake is an S3 server in this process that does as it is told: wrong gets each
// request after its body was read, and may answer in place of the server.
type fake struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	wrong    func(f *fake, w http.ResponseWriter, r *request) (answered bool)
	objects  map[string][]byte
	requests []*request
	bodies   map[string]bool // sums of those that came whole
}

// request is one that came in.
type request struct {
	*http.Request
	n    int // 1 for the first of this method
	key  string
	body []byte
	to   *fake
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, objects: map[string][]byte{}, bodies: map[string]bool{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// open opens a store on the fake that is quick to lose patience.
func (f *fake) open(t *testing.T, change func(*Config)) *Store {
	t.Helper()
	cfg := Config{Bucket: "bucket", Endpoint: f.URL, Region: "us-east-1", Style: "path", Credentials: static(accessKey, secretKey), Attempts: 3, Pause: time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	s, err := open(cfg.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// set makes the server answer wrongly from now on.
func (f *fake) set(wrong func(f *fake, w http.ResponseWriter, r *request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong = wrong
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/bucket")
	req := &request{Request: r, to: f, key: strings.TrimPrefix(path, "/")}
	f.mu.Lock()
	f.requests = append(f.requests, req)
	for _, old := range f.requests {
		if old.Method == r.Method {
			req.n++
		}
	}
	wrong := f.wrong
	f.mu.Unlock()
	if wrong == nil || !wrong(f, w, req) {
		f.serve(w, req)
	}
}

// read reads the body, out of the chunks it may be signed in.
func (r *request) read() error {
	if r.body != nil {
		return nil
	}
	in := bufio.NewReader(r.Body)
	r.body = []byte{}
	var err error
	if !strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING") {
		r.body, err = io.ReadAll(in)
	} else {
		for {
			line, lerr := in.ReadString('\n')
			if lerr != nil {
				return lerr
			}
			size, _, _ := strings.Cut(line, ";")
			n, perr := strconv.ParseInt(size, 16, 64)
			if perr != nil {
				return perr
			}
			b := make([]byte, n+2)
			if _, err := io.ReadFull(in, b); err != nil {
				return err
			}
			r.body = append(r.body, b[:n]...)
			if n == 0 {
				break
			}
		}
		if want := r.Header.Get("X-Amz-Decoded-Content-Length"); want != strconv.Itoa(len(r.body)) {
			return fmt.Errorf("%d bytes, want %s", len(r.body), want)
		}
	}
	sum := sha256.Sum256(r.body)
	r.to.mu.Lock()
	defer r.to.mu.Unlock()
	r.to.bodies[hex.EncodeToString(sum[:])] = true
	return err
}

func fail(w http.ResponseWriter, status int, code string) bool {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>%s %s Signature=1234</Message></Error>`, code, accessKey, secretKey)
	return true
}

// cut closes the connection without an answer.
func cut(w http.ResponseWriter) bool {
	c, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		c.Close()
	}
	return true
}

// store does what a PUT asks for and tells whether the key was free.
func (f *fake) store(r *request) (free bool, err error) {
	if err := r.read(); err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, taken := f.objects[r.key]; taken && r.Header.Get("If-None-Match") == "*" {
		return false, nil
	}
	f.objects[r.key] = r.body
	return true, nil
}

func (f *fake) serve(w http.ResponseWriter, r *request) {
	f.mu.Lock()
	object, there := f.objects[r.key]
	f.mu.Unlock()
	w.Header().Set("Last-Modified", time.Unix(1e9, 0).UTC().Format(http.TimeFormat))
	switch {
	case r.Method == http.MethodPut:
		free, err := f.store(r)
		switch {
		case err != nil:
			fail(w, http.StatusBadRequest, "IncompleteBody")
		case !free:
			fail(w, http.StatusPreconditionFailed, "PreconditionFailed")
		}
	case r.key == "":
		f.list(w, r.URL.Query())
	case !there:
		fail(w, http.StatusNotFound, "NoSuchKey")
	case r.Method == http.MethodDelete:
		f.mu.Lock()
		delete(f.objects, r.key)
		f.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	default:
		http.ServeContent(w, r.Request, "", time.Unix(1e9, 0), bytes.NewReader(object))
	}
}

func (f *fake) list(w http.ResponseWriter, q url.Values) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var keys []string
	for k := range f.objects {
		if strings.HasPrefix(k, q.Get("prefix")) && k > q.Get("start-after") && k > q.Get("continuation-token") {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	most, _ := strconv.Atoi(q.Get("max-keys"))
	more := len(keys) > most
	if more {
		keys = keys[:most]
	}
	writeList(w, keys, more, f.objects)
}

func writeList(w io.Writer, keys []string, more bool, objects map[string][]byte) {
	fmt.Fprintf(w, `<?xml version="1.0"?><ListBucketResult><IsTruncated>%v</IsTruncated>`, more)
	if more {
		fmt.Fprintf(w, "<NextContinuationToken>%s</NextContinuationToken>", keys[len(keys)-1])
	}
	for _, k := range keys {
		fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>%d</Size><LastModified>2001-09-09T01:46:40.000Z</LastModified></Contents>", k, len(objects[k]))
	}
	fmt.Fprint(w, "</ListBucketResult>")
}

// sent counts the requests of one method.
func (f *fake) sent(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if r.Method == method {
			n++
		}
	}
	return n
}

// sameBytes fails unless all bodies that came whole were the same.
func (f *fake) sameBytes(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.bodies) > 1 {
		t.Errorf("the attempts had %d different bodies", len(f.bodies))
	}
}
