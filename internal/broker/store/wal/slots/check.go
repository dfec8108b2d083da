package slots

import (
	"strconv"
	"strings"

	"github.com/looptape/looptape/internal/broker/store/wal"
)

// Checked is what Check says of a slot.
type Checked struct {
	Seal        bool
	First, Last wal.LSN // of its records
}

// Check verifies a whole slot that was read from key, for whoever looks at a store
// from outside; prefix is that of Config. *wal.CorruptError says what is wrong.
func Check(prefix, key string, b []byte) (Checked, error) {
	of, seq, ok := parseKey(prefix, key)
	if !ok {
		return Checked{}, corrupt(key, differs(0, "key", prefix+"/broker/epoch/slot", key))
	}
	h, err := parseHeader(b, int64(len(b)), of, seq)
	if err == nil && h.kind == kindData {
		if h, err = parseData(b, of, seq); err == nil {
			err = eachRecord(b[headerBytes:], h.first, h.last, func(wal.LSN, []byte) error { return nil })
		}
	}
	if err != nil {
		return Checked{}, corrupt(key, err)
	}
	return Checked{Seal: h.kind == kindSeal, First: h.first, Last: h.last}, nil
}

func parseKey(prefix, key string) (of series, seq int64, ok bool) {
	rest, ok := strings.CutPrefix(key, prefix+"/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return series{}, 0, false
	}
	broker, err1 := strconv.ParseInt(parts[0], 10, 32)
	epoch, err2 := strconv.ParseInt(parts[1], 10, 64)
	seq, err3 := strconv.ParseInt(parts[2], 10, 64)
	of = series{prefix: prefix, broker: int32(broker), epoch: epoch}
	return of, seq, err1 == nil && err2 == nil && err3 == nil && of.key(seq) == key
}
