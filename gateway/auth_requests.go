package gateway

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// What requests for keys need: to read what they show or compare, to write what they
// change, and of a lease that a key is attached to, to write all keys that are.

func (s *Server) mayPut(ctx context.Context, by asker, r *pb.PutRequest) error {
	if err := by.CheckPut(by.who, r.Key); err != nil {
		return err
	}
	if r.Lease != 0 {
		if err := s.mayTouchLease(ctx, by, r.Lease); err != nil {
			return err
		}
	}
	if r.PrevKv {
		return by.CheckRange(by.who, r.Key, nil)
	}
	return nil
}

func mayDelete(by asker, r *pb.DeleteRangeRequest) error {
	if err := by.CheckDelete(by.who, r.Key, r.RangeEnd); err != nil {
		return err
	}
	if r.PrevKv {
		return by.CheckRange(by.who, r.Key, r.RangeEnd)
	}
	return nil
}

// mayTxn wants everything that any branch could need.
func (s *Server) mayTxn(ctx context.Context, by asker, r *pb.TxnRequest) error {
	for _, c := range r.GetCompare() {
		if err := by.CheckRange(by.who, c.Key, c.RangeEnd); err != nil {
			return err
		}
	}
	for _, branch := range [2][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range branch {
			if err := s.mayOp(ctx, by, op); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Server) mayOp(ctx context.Context, by asker, op *pb.RequestOp) error {
	switch u := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return by.CheckRange(by.who, u.RequestRange.GetKey(), u.RequestRange.GetRangeEnd())
	case *pb.RequestOp_RequestPut:
		return s.mayPut(ctx, by, u.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return mayDelete(by, u.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return s.mayTxn(ctx, by, u.RequestTxn)
	}
	return nil
}

// mayTouchLease wants all keys of a lease to be the asker's to write: who revokes it
// deletes them. A key that is attached to it after the look is not noticed.
func (s *Server) mayTouchLease(ctx context.Context, by asker, id int64) error {
	if !by.Enabled() || admin(by) == nil {
		return nil
	}
	if _, err := s.store.ReadIndex(ctx); err != nil {
		return err
	}
	return s.mayRenewLease(by, id)
}

// mayRenewLease is mayTouchLease with the keys that are attached to the lease here.
func (s *Server) mayRenewLease(by asker, id int64) error {
	if err := somebody(by); err != nil {
		return err
	}
	if !by.Enabled() || admin(by) == nil {
		return nil
	}
	keys, err := s.store.LeaseKeys(id)
	for _, key := range keys {
		if err == nil {
			err = by.CheckPut(by.who, key)
		}
	}
	return err
}

// maySeeLeases wants all keys of leases to be the asker's to read.
func (s *Server) maySeeLeases(by asker, ids []int64) error {
	if !by.Enabled() || admin(by) == nil {
		return nil
	}
	for _, id := range ids {
		keys, err := s.store.LeaseKeys(id)
		if err == nil {
			err = by.mayRead(keys)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mayRead wants keys of a lease to be the asker's to read.
func (by asker) mayRead(keys [][]byte) error {
	if !by.Enabled() || admin(by) == nil {
		return nil
	}
	for _, key := range keys {
		if err := by.CheckRange(by.who, key, nil); err != nil {
			return err
		}
	}
	return nil
}

// streamAs says who asks for a stream of a range, if they may. Unlike other reads it
// can not be begun again when its basis falls: a linearizable one is checked with
// everything that was acknowledged before it.
func (s *Server) streamAs(ctx context.Context, r *pb.RangeRequest) (asker, error) {
	by, err := s.auth.asker(ctx)
	if err == nil && by.Version() > 0 && !r.Serializable {
		by, err = s.auth.again(ctx)
	}
	if err == nil {
		err = by.CheckRange(by.who, r.Key, r.RangeEnd)
	}
	return by, toGRPC(err)
}

// stillMayRead is asked before anything of a stream is sent that was let pass while the
// users were not known to have been changed ever: what it has waited for may be the
// first change.
func (s *Server) stillMayRead(ctx context.Context, by asker, r *pb.RangeRequest) error {
	if by.Version() > 0 || s.auth.current().Version() == 0 {
		return nil
	}
	return s.permitted(ctx, func(by asker) error { return by.CheckRange(by.who, r.Key, r.RangeEnd) })
}

// mayWatch returns why a watch is refused, with etcd's words for it. Who asks is who
// has begun the stream, if that still counts; the watch itself is not checked again.
func (s *Server) mayWatch(ctx context.Context, key, end []byte) (reason string) {
	by, err := s.auth.asker(ctx)
	if err == nil {
		err = by.CheckRange(by.who, key, end)
	}
	if err == nil {
		return ""
	}
	return toGRPC(err).Error()
}
