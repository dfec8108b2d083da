package broker

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/looptape/looptape/internal/broker/front/coord"
)

// Config of a Broker. DefaultConfig has the defaults named here.
type Config struct {
	DataDir string // the write-ahead log, the metadata and the objects, unless they are elsewhere
	Blob    string // URL or folder of the object store; default: objects in DataDir
	Meta    string // file or etcd:// URL of the metadata; default: meta.db in DataDir. With etcd brokers share it
	WAL     string // where the log is kept: "file" in DataDir, or "object" in the object store; default file, with etcd object
	// Lease is how long a broker of a cluster may be silent before others take
	// over. Default 6 s.
	Lease time.Duration

	NodeID            int32  // this broker's number, one of its own in a cluster; default 0
	Listen            string // host:port to listen on; default ":9092"; port 0 takes any
	Advertised        string // host:port clients are told; default: the address they came by
	Rack              string // told to clients; default none
	AutoCreate        bool   // create a topic when a client asks for its metadata; default true
	DefaultPartitions int32  // of a topic whose creator does not say; default 1

	TLS      *tls.Config  // for Listen; default plain
	Listener net.Listener // a further listener, as one in memory; default none

	MaxFrameBytes int           // largest request; default 100 MiB
	MaxInFlight   int64         // request bytes waiting for an answer; default 512 MiB
	MaxConns      int           // default 20,000
	IdleTimeout   time.Duration // of connections; default 10 min
	DrainTimeout  time.Duration // for answers under way when the broker stops; default 5 s
	MaxFetchBytes int           // of one fetch; default 55 MiB
	Groups        coord.Config  // of consumer groups
	Store         StoreConfig   // of log, memory, objects and reads
}

// DefaultConfig is a broker for one machine, with Kafka's defaults.
func DefaultConfig(dataDir string) Config {
	return Config{DataDir: dataDir, Listen: ":9092", AutoCreate: true, DefaultPartitions: 1}
}
