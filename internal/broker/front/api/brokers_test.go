package api

import "testing"

// Whatever is only right while this broker is the leader is not answered after
// its lease (P18); what is neither read nor coordinated is.
func TestReadsAreGated(t *testing.T) {
	ungated := map[int]bool{
		0: true, // produce: the log says no, see Config.Acking
		3: true, 10: true, 18: true, 19: true, 20: true, 21: true, 22: true, 32: true, 60: true,
	}
	for key, e := range table {
		if e != nil && e.read == ungated[key] {
			t.Errorf("api key %d: gated %v", key, e.read)
		}
	}
}
