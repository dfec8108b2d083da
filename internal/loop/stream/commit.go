package stream

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type (
	kmsgCommit    = kmsg.OffsetCommitRequest
	kmsgCommitted = kmsg.OffsetCommitResponse
)

// commitError is what a commit failed with, by partition.
func commitError(resp *kmsgCommitted, err error) error {
	if err != nil || resp == nil {
		return err
	}
	var errs []error
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				errs = append(errs, fmt.Errorf("commit %s/%d: %w", t.Topic, p.Partition, err))
			}
		}
	}
	return errors.Join(errs...)
}
