// Package crash kills the real process on a real disk, again and again, and
// then reads everything back. Run with -tags crash; LOOPTAPE_ROUNDS and
// LOOPTAPE_SEED change the number of rounds and the moments.
//
// The variants, LOOPTAPE_VARIANT_ROUNDS rounds each, take away what the process
// stands on: the object store and etcd are killed and started again underneath,
// the disk gets full, a sync fails. A full disk is a small tmpfs; where mounting is
// not allowed, and for the failing sync, the server is built with the tag faultdisk,
// whose disk fails as a file says (package disk, fault_on.go). Test/failover has
// the process that is stopped for longer than its lease.
package crash
