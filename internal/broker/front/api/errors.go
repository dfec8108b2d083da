package api

import (
	"context"
	"errors"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// The error codes of the protocol that are given out. This file is the only
// place that knows them.
const (
	codeUnknownServer           int16 = -1
	codeOffsetOutOfRange        int16 = 1
	codeCorruptMessage          int16 = 2
	codeUnknownTopicOrPartition int16 = 3
	codeLeaderNotAvailable      int16 = 5
	codeNotLeader               int16 = 6
	codeMessageTooLarge         int16 = 10
	codeOffsetMetadataTooLarge  int16 = 12
	codeLoading                 int16 = 14
	codeCoordinatorNotAvailable int16 = 15
	codeNotCoordinator          int16 = 16
	codeInvalidTopic            int16 = 17
	codeInvalidRequiredAcks     int16 = 21
	codeIllegalGeneration       int16 = 22
	codeInconsistentProtocol    int16 = 23
	codeInvalidGroupID          int16 = 24
	codeUnknownMemberID         int16 = 25
	codeInvalidSessionTimeout   int16 = 26
	codeRebalanceInProgress     int16 = 27
	codeInvalidTimestamp        int16 = 32
	codeUnsupportedVersion      int16 = 35
	codeTopicAlreadyExists      int16 = 36
	codeInvalidPartitions       int16 = 37
	codeInvalidReplicas         int16 = 38
	codeInvalidAssignment       int16 = 39
	codeInvalidConfig           int16 = 40
	codeInvalidRequest          int16 = 42
	codeUnsupportedForFormat    int16 = 43
	codeOutOfOrderSequence      int16 = 45
	codeInvalidProducerEpoch    int16 = 47
	codeInvalidTxnState         int16 = 48
	codeStorage                 int16 = 56
	codeUnknownProducerID       int16 = 59
	codeNonEmptyGroup           int16 = 68
	codeGroupIDNotFound         int16 = 69
	codeFetchSessionNotFound    int16 = 70
	codeFetchSessionEpoch       int16 = 71
	codeFencedLeaderEpoch       int16 = 74
	codeUnknownLeaderEpoch      int16 = 75
	codeOffsetNotAvailable      int16 = 78
	codeMemberIDRequired        int16 = 79
	codeGroupMaxSize            int16 = 81
	codeFencedInstanceID        int16 = 82
	codeSubscribedToTopic       int16 = 86
	codeInvalidRecord           int16 = 87
	codeUnknownTopicID          int16 = 100
	codeFetchSessionTopicID     int16 = 106
	codeMismatchedEndpoint      int16 = 114
)

// Errors that arise in this package.
var (
	errUnknownTopic     = errors.New("unknown topic or partition")
	errUnknownTopicID   = errors.New("unknown topic id")
	errInternalTopic    = errors.New("topic is internal")
	errAcks             = errors.New("acks must be -1, 0 or 1")
	errTransactions     = errors.New("transactions are not supported")
	errNoRecords        = errors.New("no records")
	errRequest          = errors.New("invalid request")
	errSessionNotFound  = errors.New("unknown fetch session")
	errSessionEpoch     = errors.New("not the fetch session's epoch")
	errSessionTopicID   = errors.New("fetch session mixes topic ids and names")
	errMetadataTooLarge = errors.New("offset metadata is too large")
	errReplication      = errors.New("replication factor must be -1 or above 0")
	errAssignment       = errors.New("invalid replica assignment")
	errEndpoint         = errors.New("only brokers are listed")
	errUnknownResource  = errors.New("unknown resource")
	errNoLeader         = errors.New("the partition has no leader yet")
	errNoCoordinator    = errors.New("the group has no coordinator yet")
)

// codes are tried in order.
var codes = []struct {
	err  error
	code int16
}{
	{errUnknownTopic, codeUnknownTopicOrPartition},
	{errUnknownTopicID, codeUnknownTopicID},
	{errInternalTopic, codeInvalidTopic},
	{errAcks, codeInvalidRequiredAcks},
	{errTransactions, codeInvalidTxnState},
	{errNoRecords, codeInvalidRecord},
	{errRequest, codeInvalidRequest},
	{errSessionNotFound, codeFetchSessionNotFound},
	{errSessionEpoch, codeFetchSessionEpoch},
	{errSessionTopicID, codeFetchSessionTopicID},
	{errMetadataTooLarge, codeOffsetMetadataTooLarge},
	{errReplication, codeInvalidReplicas},
	{errAssignment, codeInvalidAssignment},
	{errEndpoint, codeMismatchedEndpoint},
	{errUnknownResource, codeInvalidRequest},
	{errNoLeader, codeLeaderNotAvailable},
	{errNoCoordinator, codeCoordinatorNotAvailable},

	// Before partition.ErrCorrupt, which wraps them.
	{batch.ErrMagic, codeUnsupportedForFormat},
	{batch.ErrCRC, codeCorruptMessage},
	{batch.ErrLength, codeCorruptMessage},
	{batch.ErrShort, codeCorruptMessage},
	{batch.ErrCount, codeInvalidRecord},
	{batch.ErrRecord, codeInvalidRecord},
	{batch.ErrCompression, codeInvalidRecord},

	{partition.ErrUnknownPartition, codeUnknownTopicOrPartition},
	{partition.ErrNotLeader, codeNotLeader},
	{partition.ErrLoading, codeNotLeader},
	{partition.ErrOffsetOutOfRange, codeOffsetOutOfRange},
	{partition.ErrFencedEpoch, codeFencedLeaderEpoch},
	{partition.ErrUnknownEpoch, codeUnknownLeaderEpoch},
	{partition.ErrOutOfOrderSequence, codeOutOfOrderSequence},
	{partition.ErrInvalidEpoch, codeInvalidProducerEpoch},
	{partition.ErrUnknownProducer, codeUnknownProducerID},
	{partition.ErrTooLarge, codeMessageTooLarge},
	{partition.ErrCorrupt, codeCorruptMessage},
	{partition.ErrTimestamp, codeInvalidTimestamp},
	{partition.ErrInvalidRecord, codeInvalidRecord},
	{partition.ErrStorage, codeStorage},

	{catalog.ErrTopicExists, codeTopicAlreadyExists},
	{catalog.ErrUnknownTopic, codeUnknownTopicOrPartition},
	{catalog.ErrBadName, codeInvalidTopic},
	{catalog.ErrBadPartitions, codeInvalidPartitions},
	{catalog.ErrBadConfig, codeInvalidConfig},
	{catalog.ErrFenced, codeNotLeader},

	{coord.ErrUnknownMember, codeUnknownMemberID},
	{coord.ErrMemberIDRequired, codeMemberIDRequired},
	{coord.ErrFencedInstance, codeFencedInstanceID},
	{coord.ErrIllegalGeneration, codeIllegalGeneration},
	{coord.ErrRebalance, codeRebalanceInProgress},
	{coord.ErrInconsistentProtocol, codeInconsistentProtocol},
	{coord.ErrInvalidGroup, codeInvalidGroupID},
	{coord.ErrInvalidSession, codeInvalidSessionTimeout},
	{coord.ErrGroupFull, codeGroupMaxSize},
	{coord.ErrNotEmpty, codeNonEmptyGroup},
	{coord.ErrNotFound, codeGroupIDNotFound},
	{coord.ErrSubscribed, codeSubscribedToTopic},
	{coord.ErrLoading, codeLoading},
	{coord.ErrNotCoordinator, codeNotCoordinator},
	{coord.ErrNotAvailable, codeCoordinatorNotAvailable},

	// The client is gone, or the broker stops: somebody else will lead.
	{context.Canceled, codeNotLeader},
}

func codeOf(err error) int16 {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return codeUnknownServer
}
