package coord

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Groups are coordinated by who leads their partition: the coordinator says so
// when the leadership goes, wakes those that wait, and reads the log again when it
// comes back.
func TestLeadershipComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := newMemLogs(time.Millisecond)
		index := PartitionOf("g")
		logs.lost[index] = true
		c, stop := start(t, Config{InitialDelay: time.Minute}, logs)
		synctest.Wait()
		if err := commit(c, "g", 0, 1); !errors.Is(err, ErrNotCoordinator) {
			t.Errorf("commit elsewhere: %v", err)
		}
		logs.move(index, false)
		synctest.Wait()
		if err := commit(c, "g", 0, 5); err != nil {
			t.Fatal(err)
		}
		joined := make(chan JoinResult, 1)
		c.Join(JoinRequest{Group: "g", ClientID: "a", ProtocolType: "consumer", Session: time.Minute, Rebalance: time.Minute,
			Protocols: []Protocol{{Name: "range"}}}, func(r JoinResult) { joined <- r })
		time.Sleep(time.Millisecond)
		logs.move(index, true)
		if r := <-joined; !errors.Is(r.Err, ErrNotCoordinator) {
			t.Errorf("join: %+v", r)
		}
		synctest.Wait()
		// Another broker commits; this one finds it when it leads again.
		other, stopOther := start(t, Config{}, &memLogs{logs: logs.logs, delay: logs.delay, lost: map[int32]bool{}, moved: make(chan struct{}, 1)})
		synctest.Wait()
		if err := commit(other, "g", 0, 7); err != nil {
			t.Fatal(err)
		}
		stopOther()
		logs.move(index, false)
		synctest.Wait()
		if got := offsets(c, "g")[TopicPartition{"t", 0}]; got != 7 {
			t.Errorf("offset %d, want 7", got)
		}
		stop()
	})
}
