package gateway

import pb "go.etcd.io/etcd/api/v3/etcdserverpb"

// headers fills the header of every answer.
type headers struct {
	clusterID, memberID uint64
	raft                raftStatus
	// revision is asked where an answer has no revision of its own.
	revision func() int64
}

func newHeaders(store Store) headers {
	st := store.Status()
	return headers{
		clusterID: st.ClusterID,
		memberID:  st.MemberID,
		raft:      raftStatusOf(store),
		revision:  store.Revision,
	}
}

// fill completes h, which may be part of a larger allocation. The revision
// must be one that is safe to show: the store's answer to this very request,
// or 0 for the store's current revision.
func (hs *headers) fill(h *pb.ResponseHeader, revision int64) *pb.ResponseHeader {
	if revision == 0 {
		revision = hs.revision()
	}
	h.Revision = revision
	return hs.fillMember(h)
}

// fillMember completes h but for the revision, which the answers about the
// cluster's members do not have.
func (hs *headers) fillMember(h *pb.ResponseHeader) *pb.ResponseHeader {
	h.ClusterId = hs.clusterID
	h.MemberId = hs.memberID
	h.RaftTerm = hs.raft.Term()
	return h
}

// header returns the header of an answer at revision; 0 is the store's
// current revision.
func (s *Server) header(revision int64) *pb.ResponseHeader {
	return s.headers.fill(new(pb.ResponseHeader), revision)
}
