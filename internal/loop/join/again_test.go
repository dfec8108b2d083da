package join

import "testing"

// What is sent again without a time of its own gets the time of its receipt;
// the part that came first stands, whichever is seen first.
func TestSentAgainLaterChangesNothing(t *testing.T) {
	first, again := &part{time: 1}, &part{time: 2}
	if !first.beats(again) || again.beats(first) {
		t.Error("the later copy of a part stands against the first")
	}
	yes, changed := &label{time: 1}, &label{time: 2}
	if yes.beats(changed) || !changed.beats(yes) {
		t.Error("of a person's words the last must stand")
	}
}
