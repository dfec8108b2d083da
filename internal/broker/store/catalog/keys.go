package catalog

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	root       = "/v1/"
	keyCluster = root + "cluster"
	keyPIDs    = root + "pids/next"

	prefixTopics  = root + "topics/"
	prefixNames   = root + "names/"
	prefixParts   = root + "parts/"
	prefixObjs    = root + "objs/"
	prefixSets    = root + "sets/"
	prefixFence   = root + "fence/"
	prefixWAL     = root + "wal/"
	prefixGC      = root + "gc/"
	prefixDeleted = root + "deleted/"
	prefixSwept   = root + "swept/"
	prefixStaged  = root + "staged/"

	keySnapshotBase = root + "snapshot/base"

	prefixBrokers    = root + "brokers/"
	prefixWALEnd     = root + "walend/"
	prefixQuarantine = root + "quarantine/"
	keyController    = root + "controller"
)

func topicKey(id TopicID) string       { return prefixTopics + id.String() }
func nameKey(name string) string       { return prefixNames + name }
func deletedKey(id TopicID) string     { return prefixDeleted + id.String() }
func setKey(object string) string      { return prefixSets + object }
func stagedKey(manifest string) string { return prefixStaged + manifest }
func sweptKey(object string) string {
	return prefixSwept + object
}
func partKey(p Partition) string {
	return prefixParts + p.Topic.String() + "/" + strconv.FormatInt(int64(p.Index), 10)
}
func objKey(p Partition, base int64) string {
	return fmt.Sprintf("%s%s/%d/%020d", prefixObjs, p.Topic, p.Index, base)
}
func fenceKey(broker int32, epoch int64) string {
	return fmt.Sprintf("%s%d/%020d", prefixFence, broker, epoch)
}
func walKey(broker int32, epoch int64) string {
	return fmt.Sprintf("%s%d/%020d", prefixWAL, broker, epoch)
}
func walEndKey(l LogID) string {
	return fmt.Sprintf("%s%d/%020d", prefixWALEnd, l.Broker, l.Epoch)
}
func liveKey(broker int32) string {
	return fmt.Sprintf("%s%d/live", prefixBrokers, broker)
}
func quarantineKey(p Partition) string {
	return prefixQuarantine + p.Topic.String() + "/" + strconv.FormatInt(int64(p.Index), 10)
}
func gcKey(deadlineMillis int64, object string) string {
	return fmt.Sprintf("%s%020d/%s", prefixGC, deadlineMillis, object)
}

func parseTopicID(s string) (id TopicID, ok bool) {
	if len(s) != 2*len(id) {
		return id, false
	}
	for i := range id {
		v, err := strconv.ParseUint(s[2*i:2*i+2], 16, 8)
		if err != nil {
			return id, false
		}
		id[i] = byte(v)
	}
	return id, id.String() == s
}

// parsePartition reads "{topic}/{index}".
func parsePartition(s string) (p Partition, ok bool) {
	id, index, found := strings.Cut(s, "/")
	if !found {
		return p, false
	}
	if p.Topic, ok = parseTopicID(id); !ok {
		return p, false
	}
	n, err := strconv.ParseInt(index, 10, 32)
	p.Index = int32(n)
	return p, err == nil && n >= 0
}

// parseObj reads "{topic}/{index}/{base}".
func parseObj(s string) (p Partition, base int64, ok bool) {
	at := strings.LastIndexByte(s, '/')
	if at < 0 {
		return p, 0, false
	}
	if p, ok = parsePartition(s[:at]); !ok {
		return p, 0, false
	}
	base, err := strconv.ParseInt(s[at+1:], 10, 64)
	return p, base, err == nil && base >= 0
}

// parseLog reads "{broker}/{epoch}".
func parseLog(s string) (l LogID, ok bool) {
	broker, epoch, found := strings.Cut(s, "/")
	b, err := strconv.ParseInt(broker, 10, 32)
	if !found || err != nil {
		return l, false
	}
	e, err := strconv.ParseInt(epoch, 10, 64)
	return LogID{int32(b), e}, err == nil && e > 0
}

// parseLive reads "{broker}/live".
func parseLive(s string) (broker int32, ok bool) {
	id, found := strings.CutSuffix(s, "/live")
	n, err := strconv.ParseInt(id, 10, 32)
	return int32(n), found && err == nil
}

// parseNumbered reads "{broker}/{epoch}" and "{deadline}/{rest}".
func parseNumbered(s string) (first int64, rest string, ok bool) {
	head, rest, found := strings.Cut(s, "/")
	first, err := strconv.ParseInt(head, 10, 64)
	return first, rest, found && err == nil
}
