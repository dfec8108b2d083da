package wal

import (
	"encoding/binary"
	"fmt"
)

// The body of an adopt block, the first of every epoch. It fixes where the dead
// epochs ended and carries the last block of the newest of them that has any,
// since nothing vouches for that block's sync.
//
//	count         4
//	count times: epoch 8, last LSN 8        ascending epochs
//	carriedEpoch  8   0: nothing is carried
//	carriedFirst  8
//	carriedLast   8
//	records as in a data block, up to the end of the body
const (
	adoptEntryBytes = 16
	adoptFixedBytes = 4 + 24
	// maxAdopted bounds the dead epochs kept at a time. Epochs without records
	// go at once, so this is starts with records that nobody flushed.
	maxAdopted = 1 << 16
)

// adoption is the content of an adopt block.
type adoption struct {
	ends  []epochEnd
	carry carry
}

type epochEnd struct {
	epoch int64
	last  LSN
}

// carry is the last block of a dead epoch.
type carry struct {
	epoch       int64 // 0: none
	first, last LSN
	records     []byte // as in a data block
}

// covers tells whether the carry has the record.
func (c *carry) covers(lsn LSN) bool { return c.epoch != 0 && c.first <= lsn && lsn <= c.last }

func (a *adoption) bodyBytes() int {
	return adoptFixedBytes + adoptEntryBytes*len(a.ends) + len(a.carry.records)
}

// put writes the adoption into a block made for it.
func (a *adoption) put(b *block) {
	be := binary.BigEndian
	p := be.AppendUint32(make([]byte, 0, a.bodyBytes()-len(a.carry.records)), uint32(len(a.ends)))
	for _, e := range a.ends {
		p = be.AppendUint64(p, uint64(e.epoch))
		p = be.AppendUint64(p, uint64(e.last))
	}
	p = be.AppendUint64(p, uint64(a.carry.epoch))
	p = be.AppendUint64(p, uint64(a.carry.first))
	p = be.AppendUint64(p, uint64(a.carry.last))
	b.kind, b.first = kindAdopt, 1
	b.write(p)
	b.write(a.carry.records)
}

// parseAdoption reads an adopt block's body. The records are a part of it.
func parseAdoption(body []byte) (adoption, error) {
	be := binary.BigEndian
	if len(body) < adoptFixedBytes {
		return adoption{}, fmt.Errorf("%w: %d bytes", errBody, len(body))
	}
	count := int64(be.Uint32(body))
	body = body[4:]
	if count > maxAdopted || count*adoptEntryBytes > int64(len(body)-24) {
		return adoption{}, fmt.Errorf("%w: %d dead epochs in %d bytes", errBody, count, len(body))
	}
	a := adoption{ends: make([]epochEnd, count)}
	before := int64(0)
	for i := range a.ends {
		e := epochEnd{int64(be.Uint64(body)), LSN(be.Uint64(body[8:]))}
		if e.epoch <= before || e.last < 0 {
			return adoption{}, fmt.Errorf("%w: dead epoch %d after %d ends at %d", errBody, e.epoch, before, e.last)
		}
		before = e.epoch
		a.ends[i] = e
		body = body[adoptEntryBytes:]
	}
	a.carry = carry{int64(be.Uint64(body)), LSN(be.Uint64(body[8:])), LSN(be.Uint64(body[16:])), body[24:]}
	c := &a.carry
	if c.epoch == 0 {
		if c.first != 0 || c.last != 0 || len(c.records) != 0 {
			return adoption{}, fmt.Errorf("%w: records of no epoch", errBody)
		}
		return a, nil
	}
	if c.first < 1 || c.last < c.first || a.end(c.epoch) != c.last {
		return adoption{}, fmt.Errorf("%w: carries %d to %d of epoch %d", errBody, c.first, c.last, c.epoch)
	}
	return a, eachRecord(c.records, c.first, c.last, func(LSN, []byte) error { return nil })
}

// end is where the epoch ended, -1 if the adoption does not say.
func (a *adoption) end(epoch int64) LSN {
	for _, e := range a.ends {
		if e.epoch == epoch {
			return e.last
		}
	}
	return -1
}
