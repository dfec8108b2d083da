package batch

import "fmt"

// AtTime returns the offset and timestamp of the batch's first record at or
// above offset from with a timestamp at or after ts; -1, -1 when it has none.
// Under LogAppendTime all records have the batch's.
func (b Batch) AtTime(ts, from int64) (offset, timestamp int64, err error) {
	if b.IsLogAppendTime() {
		if b.MaxTimestamp() < ts || b.LastOffset() < from {
			return -1, -1, nil
		}
		return max(b.BaseOffset(), from), b.MaxTimestamp(), nil
	}
	body, err := b.Body()
	if err != nil {
		return -1, -1, err
	}
	offset, timestamp = -1, -1
	err = WalkRecords(body, b.Count(), func(r Record) bool {
		o, t := b.BaseOffset()+int64(r.OffsetDelta), b.BaseTimestamp()+r.TimestampDelta
		if t < ts || o < from {
			return true
		}
		offset, timestamp = o, t
		return false
	})
	if err != nil {
		return -1, -1, fmt.Errorf("find time in batch: %w", err)
	}
	return offset, timestamp, nil
}
