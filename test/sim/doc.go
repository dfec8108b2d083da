// Package sim runs the whole storage engine in one process, in virtual time, on a
// disk, an object store and a metadata store that fail, and holds what it does
// against a model.
//
// One seed decides everything that is decided here: how many brokers there are and
// where their logs lie (alone with a log in files, or one to three with their logs
// in the bucket), their sizes and times, who works (idempotent and plain producers,
// transactional ones with their coordinator, readers of both isolation levels, an
// administrator who creates and deletes topics, deletes records, seals), and what
// goes wrong when. A network asks late, loses requests and answers, does things
// after it said that nobody knows, or twice; stores refuse, are away, list slowly;
// watches lag and break; a disk is slow, full, tears what was not synced and fails a
// sync. Processes are killed before and after any step, with or without the
// machine's memory, stopped, paused for longer than their lease, cut off from one
// store, and taken for dead while they live. When the faults end, the system has
// three minutes of its time to settle.
//
// What must hold, by the numbers of ARCHITECTURE.md:
//
//	I1  what was acknowledged is there, at its offset, until something deletes it
//	I2  an offset is given once
//	I3  what the catalog shows is stored and whole, ranges have no hole
//	I4  whoever has lost its fence makes nothing visible any more
//	I5  an idempotent producer's batches are there once, in order, without a hole
//	I6  a read-committed reader is shown committed transactions, all and nothing else
//	I7  a batch reads as it was sent, and always the same
//	I12 a stop ends every goroutine (else synctest says so)
//
// Besides: offsets, high watermark, last stable offset and log start never go back
// for any client; no object and no key is left that nothing lives in (orphan); a
// process ends only when it was told to, killed, fenced, or its disk failed, and
// clients get through once nothing fails (liveness).
//
// # Running it
//
//	make sim                 2,000 seeds, first those of seeds.txt that once failed
//	make sim SEEDS=20000
//	make sim SEED=42         one seed with its whole history
//
// A seed that fails prints what broke, the last events, and how to run it again.
// Each of a few worker processes runs one seed at a time on one processor, with the
// seed for crypto/rand, so that ids and nonces are the seed's, too.
//
// What a seed gives again is the world, the work and the faults: a decision depends
// on the seed, on what it is about and on how often that was asked (dice). The order
// of goroutines that can run at the same moment, maps and selects stay the
// runtime's, testing/synctest does not decide them. So histories of one seed agree
// up to the first such moment that matters: some to the end, most for hundreds of
// events, and a race that a seed has found may need some runs to be seen again.
// TestSameSeed counts.
//
// # What it finds
//
// Mistakes made on purpose, one at a time, and the first seed of 1, 2, 3, ... that
// found each (a line or two each, in the package named by the words):
//
//	the log acknowledges before its sync                        2  I2
//	the log is trimmed before the commit                        1  I2
//	commits compare no fence                                   11  I4
//	recovery forgets producers                                  3  I1 I5
//	an opened partition loses its open transactions            14  I6
//	a commit that timed out is taken for another's              3  liveness
//	no slot is sealed                                           1  offsets go back
//	any slot that exists is taken for one's own                86  I5
//	slots are acknowledged out of order                         5
//	merging loses aborted transactions                          4  I6
//	a replacement compares no inputs                          152  I3
//	retention takes what is young                               2  I1
//	a duplicate is answered before the first is durable        56  offsets go back
//	markers fence nobody                                        4  I6
//	the high watermark is the last offset given                 1  I1
//	the sweeper sees no puts under way                         50  liveness
//
// Four were not found in 200 to 300 seeds, since something else guards the same:
// commits that compare no claim of the sweeper, retired objects that are deleted as
// soon as their key's deadline allows, a replay that does not drop what objects
// have, and a read-committed read that does not look at the log start again (the
// simulation found that one when it was real). Seeds mean other things when plans
// change, so the numbers say how many it takes, not which.
package sim
