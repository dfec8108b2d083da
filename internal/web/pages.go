package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
)

// dist holds the pages as web/ builds them. A checkout has only the placeholder,
// so that `go test` works without Node; make build refuses to go on without the
// rest.
//
//go:embed all:dist
var dist embed.FS

// pages are the embedded files, ready to be sent.
type pages struct {
	built bool
	files map[string]*page // by path, "/index.html"
	index *page
}

type page struct {
	kind, tag string
	raw, gz   []byte // gz is nil where it saves nothing
	keep      bool   // its name holds a hash of its content
}

func loadPages() (*pages, error) {
	p := &pages{files: map[string]*page{}}
	err := fs.WalkDir(dist, "dist", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := dist.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := newPage(name, b)
		if err != nil {
			return err
		}
		p.files[strings.TrimPrefix(name, "dist")] = f
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read embedded pages: %w", err)
	}
	p.index, p.built = p.files["/index.html"], true
	if p.index == nil {
		p.index, p.built = p.files["/placeholder.html"], false
	}
	if p.index == nil {
		return nil, fmt.Errorf("read embedded pages: neither index.html nor placeholder.html is there")
	}
	return p, nil
}

func newPage(name string, b []byte) (*page, error) {
	sum := sha256.Sum256(b)
	f := &page{kind: mime.TypeByExtension(path.Ext(name)), raw: b, tag: `"` + hex.EncodeToString(sum[:12]) + `"`, keep: strings.Contains(name, "/assets/")}
	switch path.Ext(name) { // whatever the machine's own table says
	case ".js":
		f.kind = "text/javascript; charset=utf-8"
	case ".css":
		f.kind = "text/css; charset=utf-8"
	case ".html":
		f.kind = "text/html; charset=utf-8"
	case ".svg":
		f.kind = "image/svg+xml"
	}
	if f.kind == "" {
		f.kind = "application/octet-stream"
	}
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if z.Len() < len(b)*9/10 {
		f.gz = z.Bytes()
	}
	return f, nil
}

// ServeHTTP sends a file, and the index for every address of the pages' own.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, status := p.files[r.URL.Path], http.StatusOK
	if f == nil {
		if strings.Contains(path.Base(r.URL.Path), ".") && strings.HasPrefix(r.URL.Path, "/assets/") {
			writeProblem(w, &problem{http.StatusNotFound, "no_file", "the pages have no such file"})
			return
		}
		f, status = p.index, indexStatus(r.URL.Path)
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Etag", f.tag)
	h.Add("Vary", "Accept-Encoding")
	h.Set("Cache-Control", "no-cache")
	if f.keep {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if r.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := f.raw
	if f.gz != nil && accepts(r, "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = f.gz
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

// sections are the addresses that the pages know (web/src/app.tsx).
var sections = []string{"", "cases", "releases", "stream"}

// indexStatus is the status under which the index answers an address: the pages
// say themselves that there is nothing, programs read it here.
func indexStatus(path string) int {
	section, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if slices.Contains(sections, section) {
		return http.StatusOK
	}
	return http.StatusNotFound
}
