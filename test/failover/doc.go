// Package failover runs two brokers, as real processes, on one bucket and one etcd,
// and takes one away under load: by SIGKILL, or by SIGSTOP for longer than its
// lease. Build tag crash; versitygw and etcd come from `make tools`.
package failover
