package web

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/loop/view"
)

func TestStorage(t *testing.T) {
	get := func(cfg Config, path string) (int, string) {
		t.Helper()
		cfg.View = &view.View{}
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRecorder()
		s.Handler().ServeHTTP(r, httptest.NewRequest(http.MethodGet, path, nil))
		b, err := io.ReadAll(r.Result().Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.Code, string(b)
	}
	tape := Config{
		QueryTimeout: time.Second,
		Storage:      func() any { return map[string]int{"broker": 3} },
		Catalog:      func(context.Context) ([]byte, error) { return []byte("LTMS"), nil },
	}
	for path, want := range map[string]string{"/v1/storage": `{"broker":3}` + "\n", "/v1/storage/catalog": "LTMS"} {
		if code, body := get(tape, path); code != http.StatusOK || body != want {
			t.Errorf("%s: %d %q", path, code, body)
		}
		if code, body := get(Config{}, path); code != http.StatusNotFound {
			t.Errorf("%s without a tape: %d %s", path, code, body)
		}
	}
	tape.Catalog = func(context.Context) ([]byte, error) { return nil, context.DeadlineExceeded }
	if code, body := get(tape, "/v1/storage/catalog"); code != http.StatusInternalServerError {
		t.Errorf("%d %s", code, body)
	}
}
