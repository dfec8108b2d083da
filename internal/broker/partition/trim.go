package partition

import "github.com/looptape/looptape/internal/broker/store/catalog"

// Trim takes note of a log start that the catalog has: what lies below it may be
// gone at any moment. An answer to DeleteRecords that was lost leaves the
// partition behind the catalog otherwise.
func (s *Set) Trim(id catalog.Partition, logStart int64) {
	s.mu.RLock()
	p := s.parts[ID{Topic: id.Topic, Index: id.Index}]
	s.mu.RUnlock()
	if p == nil {
		return // it begins with what the catalog says
	}
	p.mu.Lock()
	p.logStart = max(p.logStart, logStart)
	p.mu.Unlock()
}
