package sim

import (
	"math/rand/v2"
	"time"

	"github.com/looptape/looptape/internal/broker"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/read"
	"github.com/looptape/looptape/internal/broker/store/wal"
	"github.com/looptape/looptape/internal/broker/store/wal/slots"
	"github.com/looptape/looptape/internal/broker/store/write"
)

// A plan is how one seed's world is made: who works in it and what may go wrong.
// Each seed has other faults, many have few of them: a fault that is always there
// hides what happens without it.
type plan struct {
	length     time.Duration // of the part with faults
	partitions int32
	streams    int // idempotent
	plain      int
	txns       int
	readers    int
	admin      bool

	// Alone on a log in files, or several brokers on one bucket with their logs in it.
	nodes         int32
	cluster       bool
	unconditional bool // the bucket has no create-only put

	kills, cuts, stops, pauses, zombies, armed bool
	diskFaults, blobFaults, metaFaults         bool
	splits                                     bool          // one process is cut off from a store
	nemesis                                    time.Duration // longest time between two of its acts

	store broker.StoreConfig
}

func drawPlan(r *rand.Rand) plan {
	p := plan{
		length:     between(r, 5*time.Second, 40*time.Second),
		partitions: 1 + r.Int32N(4),
		streams:    1 + r.IntN(4),
		plain:      r.IntN(3),
		txns:       r.IntN(3),
		readers:    1 + r.IntN(2),
		admin:      chance(r, 0.7),
		kills:      chance(r, 0.5),
		cuts:       chance(r, 0.5),
		stops:      chance(r, 0.4),
		pauses:     chance(r, 0.4),
		zombies:    chance(r, 0.3),
		armed:      chance(r, 0.5),
		diskFaults: chance(r, 0.4),
		blobFaults: chance(r, 0.6),
		metaFaults: chance(r, 0.6),
		nemesis:    between(r, time.Second, 10*time.Second),
		nodes:      1,
	}
	if chance(r, 0.5) {
		p.cluster, p.nodes = true, 1+r.Int32N(3)
		p.unconditional = chance(r, 0.2)
		p.zombies, p.diskFaults = false, false
		p.splits = chance(r, 0.4)
	}
	pick := func(all ...int64) int64 { return all[r.IntN(len(all))] }
	// Shorter than some puts take: names, claims and fences have to do what time
	// does not.
	grace := time.Duration(pick(200, 1000, 5000)) * time.Millisecond
	p.store = broker.StoreConfig{
		Log: wal.Config{SegmentBytes: pick(32<<10, 64<<10), MaxBatch: int(pick(4<<10, 8<<10)), Buffered: chance(r, 0.3)},
		Slots: slots.Config{
			Linger: time.Duration(pick(0, 5, 60)) * time.Millisecond, MinLinger: 5 * time.Millisecond, MaxLinger: 50 * time.Millisecond, BudgetPerMonth: -1,
			MaxSlotBytes: int(pick(1<<10, 8<<10)), InFlight: int(pick(1, 3, 8)), MaxUncommitted: 128 << 10,
			PutTimeout: 4 * time.Second, RetryMin: 10 * time.Millisecond, RetryMax: time.Second, DrainTimeout: 5 * time.Second, DeletesPerSecond: 1000,
		},
		Partitions: partition.Config{
			SealBytes: pick(2<<10, 4<<10, 16<<10), SealAfter: time.Duration(pick(500, 2000, 8000)) * time.Millisecond,
			MaxUnflushed: 64 << 10, RetainBytes: pick(-1, 2<<10, 32<<10),
		},
		Read:  read.Config{CacheBytes: pick(4<<10, 16<<10), Ahead: pick(-1, 1<<10, 8<<10), ChunkBytes: int(pick(256, 1024, 4096))},
		Flush: write.Config{SingleBytes: pick(1<<10, 4<<10), BlockBytes: int(pick(512, 2048)), Grace: grace, RetryMin: 10 * time.Millisecond, RetryMax: time.Second},
		Sweep: write.SweepConfig{Every: time.Duration(pick(1000, 3000)) * time.Millisecond, Orphans: time.Duration(pick(700, 3000, 10_000)) * time.Millisecond, Grace: grace},
		Background: write.BackgroundConfig{
			Merge: write.MergeConfig{
				FanIn: int(pick(2, 3, 16)), MiddleBytes: pick(8<<10, 64<<10), LargeBytes: pick(32<<10, 256<<10), LeaveBytes: pick(1<<10, 8<<10),
				BlockBytes: int(pick(512, 4096)), Memory: pick(4<<10, 64<<10),
			},
			Compact:    write.CompactConfig{KeyBytes: pick(2<<10, 4<<10, 64<<10), PieceBytes: pick(2<<10, 16<<10), GroupBytes: pick(4<<10, 64<<10), BlockBytes: int(pick(512, 2048))},
			MergeEvery: time.Duration(pick(500, 2000, 10_000)) * time.Millisecond, CompactEvery: time.Duration(pick(1000, 5000)) * time.Millisecond,
			BytesPerSecond: pick(-1, 4<<20),
		},
		Snapshots:    write.SnapshotConfig{Every: -1},
		DrainTimeout: 5 * time.Second,
	}
	return p
}
