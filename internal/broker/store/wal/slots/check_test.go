package slots

import (
	"bytes"
	"errors"
	"testing"

	"github.com/looptape/looptape/internal/broker/store/wal"
)

func TestCheck(t *testing.T) {
	of := series{testPrefix, 1, 7}
	for _, c := range []struct {
		seq  int64
		good []byte
		want Checked
	}{
		{3, sample(), Checked{First: 5, Last: 6}},
		{4, sampleSeal(), Checked{Seal: true}},
	} {
		if got, err := Check(testPrefix, of.key(c.seq), c.good); err != nil || got != c.want {
			t.Errorf("%+v, %v", got, err)
		}
		var bad *wal.CorruptError
		for i := range c.good {
			b := bytes.Clone(c.good)
			b[i] ^= 1 << (i % 8)
			if _, err := Check(testPrefix, of.key(c.seq), b); !errors.As(err, &bad) || bad.File != of.key(c.seq) {
				t.Fatalf("byte %d: %v", i, err)
			}
			if _, err := Check(testPrefix, of.key(c.seq), c.good[:i]); !errors.As(err, &bad) {
				t.Fatalf("cut to %d: %v", i, err)
			}
		}
		for _, key := range []string{of.key(5), series{testPrefix, 1, 8}.key(c.seq), "x/1/7/3", testPrefix + "/1/7/3", testPrefix + "/1/7", ""} {
			if _, err := Check(testPrefix, key, c.good); !errors.As(err, &bad) {
				t.Errorf("under %q: %v", key, err)
			}
		}
	}
}
