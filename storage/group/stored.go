package group

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// DecodeReplicas returns the configuration that a state has stored
// (mvcc.Store.ConfState).
func DecodeReplicas(row []byte) (Replicas, error) {
	conf := &raftpb.ConfState{}
	if err := proto.Unmarshal(row, conf); err != nil {
		return Replicas{}, fmt.Errorf("group: bad configuration: %w", err)
	}
	sorted := func(ids []uint64) []uint64 { return slices.Sorted(slices.Values(ids)) }
	return Replicas{sorted(conf.GetVoters()), sorted(conf.GetLearners())}, nil
}
