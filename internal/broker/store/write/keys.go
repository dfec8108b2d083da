package write

import "hash/maphash"

// keyEntryBytes is the memory of one key in a keyMap, roughly.
const keyEntryBytes = 64

// keyMap knows the newest offset of each key, in bounded memory: keys are known
// by 128 bits of hash under seeds of their own, so nobody can make two that meet.
type keyMap struct {
	seeds [2]maphash.Seed
	max   int
	at    map[[2]uint64]int64
}

func newKeyMap(bytes int64) *keyMap {
	return &keyMap{
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		max:   max(1, int(bytes/keyEntryBytes)), at: map[[2]uint64]int64{},
	}
}

func (m *keyMap) hash(key []byte) [2]uint64 {
	return [2]uint64{maphash.Bytes(m.seeds[0], key), maphash.Bytes(m.seeds[1], key)}
}

// put notes a key's offset; offsets ascend. false: there is no room for a new key.
func (m *keyMap) put(key []byte, offset int64) bool {
	h := m.hash(key)
	if _, ok := m.at[h]; !ok && len(m.at) >= m.max {
		return false
	}
	m.at[h] = offset
	return true
}

// newest says that no later record of the key is known.
func (m *keyMap) newest(key []byte, offset int64) bool {
	at, ok := m.at[m.hash(key)]
	return !ok || offset >= at
}
