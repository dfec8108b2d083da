package web

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// errNoTape answers questions about a store that this process does not have.
var errNoTape = notFound("no_tape", "this process runs on another Kafka cluster and has no store of its own")

func (s *Server) storage(*query) (any, error) {
	if s.cfg.Storage == nil {
		return nil, errNoTape
	}
	return s.cfg.Storage(), nil
}

// storageCatalog sends the catalog as it is stored in snapshots
// (docs/format/catalog.md).
func (s *Server) storageCatalog(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.cfg.QueryTimeout + writeTimeout))
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.QueryTimeout)
	defer cancel()
	if _, err := s.cfg.Tenant(r); err != nil {
		writeProblem(w, &problem{http.StatusUnauthorized, "unauthorized", "the credential is missing or unknown"})
		return
	}
	if s.cfg.Catalog == nil {
		s.fail(w, r, ctx, errNoTape)
		return
	}
	body, err := s.cfg.Catalog(ctx)
	if err != nil {
		s.fail(w, r, ctx, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	w.Write(body)
}
