package member

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"

	"github.com/pebbledash/pebbledash/storage/group"
)

// Comparison is what came of comparing what the members have.
type Comparison struct {
	// Revision is the one up to which keys and their history were compared.
	Revision int64
	// Different are the members whose keys are not those of most, sorted; where no
	// keys are those of most, all members that were compared.
	Different []uint64
	// Compared are the members that have answered, this one among them, from the same
	// compacted revision on; the others are Missing.
	Compared, Missing []uint64
}

// Compare compares checksums of what the members have, at a revision that this one has
// everything up to. Every member reads all its keys for that. Who does not answer is
// missing in the answer; an error is one of this member.
func (m *Member) Compare(ctx context.Context) (Comparison, error) {
	rev, err := m.ReadIndex(ctx)
	if err != nil {
		return Comparison{}, err
	}
	own, err := m.HashKV(ctx, rev)
	if err != nil {
		return Comparison{}, err
	}
	var mu sync.Mutex
	hashes := map[uint64]uint32{m.id.MemberID: own.Hash}
	c := Comparison{Revision: rev, Compared: []uint64{m.id.MemberID}}
	var all sync.WaitGroup
	for _, i := range m.Members() {
		if i.ID == m.id.MemberID {
			continue
		}
		all.Go(func() {
			theirs, err := m.hashOf(ctx, i.ID, rev)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || theirs.CompactRevision != own.CompactRevision {
				m.cfg.Logger.Info("a member could not be compared", "member", FormatID(i.ID), "error", err)
				c.Missing = append(c.Missing, i.ID)
				return
			}
			hashes[i.ID] = theirs.Hash
			c.Compared = append(c.Compared, i.ID)
		})
	}
	all.Wait()
	slices.Sort(c.Compared)
	slices.Sort(c.Missing)
	c.Different = outvoted(hashes)
	return c, ctx.Err()
}

// outvoted returns whose hash is not that of more than half.
func outvoted(hashes map[uint64]uint32) (ids []uint64) {
	votes := map[uint32]int{}
	for _, h := range hashes {
		votes[h]++
	}
	for id, h := range hashes {
		if 2*votes[h] <= len(hashes) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (m *Member) hashOf(ctx context.Context, id uint64, rev int64) (HashResult, error) {
	if m.peers == nil {
		return HashResult{}, group.ErrNoLeader
	}
	payload, err := json.Marshal(rev)
	if err != nil {
		return HashResult{}, err
	}
	reply, err := m.callMember(ctx, id, methodHash, payload)
	if err != nil {
		return HashResult{}, err
	}
	var res HashResult
	return res, json.Unmarshal(reply, &res)
}

// serveHash answers hashOf; any member does.
func (m *Member) serveHash(ctx context.Context, payload []byte) ([]byte, error) {
	var rev int64
	if err := json.Unmarshal(payload, &rev); err != nil || rev <= 0 {
		return nil, errors.New("member: bad revision to hash at")
	}
	// It may have been told of the revision before this member has heard of it.
	wait, cancel := m.bounded(ctx)
	err := m.line.WaitClosed(wait, rev)
	cancel()
	if err != nil {
		return nil, err
	}
	res, err := m.HashKV(ctx, rev)
	if err != nil {
		return nil, err
	}
	return json.Marshal(res)
}
