package e2e

import (
	"bufio"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"os"
	"testing"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/looptape/looptape/test/rig"
)

// Recording is the shared file of recorded export requests.
const Recording = "data/otlp_wire_dev.jsonl.gz"

// Exports decodes the recording with the same library that collectors use, and
// calls one of the functions for each export request, in order.
func Exports(t testing.TB, traces func(ptraceotlp.ExportRequest), logs func(plogotlp.ExportRequest)) {
	t.Helper()
	f, err := os.Open(rig.Shared(t, Recording))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(z)
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		var l struct {
			Path    string
			Body    json.RawMessage
			BodyB64 string `json:"body_b64"`
		}
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		raw, err := base64.StdEncoding.DecodeString(l.BodyB64)
		if err != nil {
			t.Fatal(err)
		}
		if l.Path == "/v1/logs" {
			req := plogotlp.NewExportRequest()
			decode(t, req.UnmarshalProto, req.UnmarshalJSON, raw, l.Body)
			logs(req)
			continue
		}
		req := ptraceotlp.NewExportRequest()
		decode(t, req.UnmarshalProto, req.UnmarshalJSON, raw, l.Body)
		traces(req)
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
}

// decode reads the protobuf body where there is one, else the JSON body.
func decode(t testing.TB, proto, text func([]byte) error, raw, body []byte) {
	t.Helper()
	err := error(nil)
	if len(raw) > 0 {
		err = proto(raw)
	} else {
		err = text(body)
	}
	if err != nil {
		t.Fatal(err)
	}
}
