package gateway

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/group"
	"github.com/pebbledash/pebbledash/storage/lease"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/revline"
)

// errInternal answers a request that made our own code panic. It names no
// cause: the log has it.
var errInternal = status.Error(codes.Internal, "pebbledash: internal error; see the server's log")

// errMirroring answers where it is not known from where a migration is.
var errMirroring = status.Error(codes.FailedPrecondition, "pebbledash: a migration is on, and no other changes are taken until it is ended")

// A row translates one sentinel of the storage into what etcd answers.
type row struct{ storage, grpc error }

// rows has a row for every exported sentinel below storage that a request can
// meet (a test looks). The frequent ones come first.
var rows = [...]row{
	{mvcc.ErrCompacted, rpctypes.ErrGRPCCompacted},
	{mvcc.ErrFutureRevision, rpctypes.ErrGRPCFutureRev},
	{evaluate.ErrKeyNotFound, rpctypes.ErrGRPCKeyNotFound},
	{lease.ErrNotFound, rpctypes.ErrGRPCLeaseNotFound},
	{lease.ErrExists, rpctypes.ErrGRPCLeaseExist},
	{lease.ErrTTLTooLarge, rpctypes.ErrGRPCLeaseTTLTooLarge},
	{lease.ErrNotPrimary, rpctypes.ErrGRPCLeaderChanged},
	{evaluate.ErrInternal, errInternal},
	{evaluate.ErrMirroring, errMirroring},
	{evaluate.ErrNotMirroring, status.Error(codes.FailedPrecondition, "pebbledash: no migration is on")},
	{evaluate.ErrMirrorGap, status.Error(codes.Aborted, "pebbledash: changes of the migration's source are missing before these")},
	{group.ErrNoLeader, rpctypes.ErrGRPCNoLeader},
	{group.ErrLeaderChanged, rpctypes.ErrGRPCLeaderChanged},
	{group.ErrTimeout, rpctypes.ErrGRPCTimeout},
	{group.ErrTooManyRequests, rpctypes.ErrGRPCRequestTooManyRequests},
	{group.ErrStopped, rpctypes.ErrGRPCStopped},
	{group.ErrNotSequencer, rpctypes.ErrGRPCLeaderChanged}, // tried again by the member, as a rule
	{revline.ErrEnded, rpctypes.ErrGRPCLeaderChanged},
	{member.ErrRemoved, rpctypes.ErrGRPCStopped},
	{auth.ErrPermissionDenied, rpctypes.ErrGRPCPermissionDenied},
	{auth.ErrInvalidAuthToken, rpctypes.ErrGRPCInvalidAuthToken},
	{auth.ErrUserEmpty, rpctypes.ErrGRPCUserEmpty},
	{auth.ErrAuthOldRevision, rpctypes.ErrGRPCAuthOldRevision},
	{auth.ErrAuthFailed, rpctypes.ErrGRPCAuthFailed},
	{auth.ErrAuthNotEnabled, rpctypes.ErrGRPCAuthNotEnabled},
	{auth.ErrRootUserNotExist, rpctypes.ErrGRPCRootUserNotExist},
	{auth.ErrRootRoleNotExist, rpctypes.ErrGRPCRootRoleNotExist},
	{auth.ErrUserAlreadyExist, rpctypes.ErrGRPCUserAlreadyExist},
	{auth.ErrUserNotFound, rpctypes.ErrGRPCUserNotFound},
	{auth.ErrRoleAlreadyExist, rpctypes.ErrGRPCRoleAlreadyExist},
	{auth.ErrRoleNotFound, rpctypes.ErrGRPCRoleNotFound},
	{auth.ErrRoleEmpty, rpctypes.ErrGRPCRoleEmpty},
	{auth.ErrPermissionNotGiven, rpctypes.ErrGRPCPermissionNotGiven},
	{auth.ErrRoleNotGranted, rpctypes.ErrGRPCRoleNotGranted},
	{auth.ErrPermissionNotGranted, rpctypes.ErrGRPCPermissionNotGranted},
	{auth.ErrInvalidAuthMgmt, rpctypes.ErrGRPCInvalidAuthMgmt},
	// For these etcd has no code.
	{auth.ErrNoPasswordUser, status.Error(codes.Unknown, auth.ErrNoPasswordUser.Error())},
	{auth.ErrVerifyOnly, status.Error(codes.Unknown, auth.ErrVerifyOnly.Error())},
	{member.ErrMemberNotFound, rpctypes.ErrGRPCMemberNotFound},
	{member.ErrMemberExists, rpctypes.ErrGRPCMemberExist},
	{member.ErrPeerURLExists, rpctypes.ErrGRPCPeerURLExist},
	{member.ErrNotLearner, rpctypes.ErrGRPCMemberNotLearner},
	{member.ErrLearnerNotReady, rpctypes.ErrGRPCLearnerNotReady},
	{member.ErrTooManyLearners, rpctypes.ErrGRPCTooManyLearners},
	{member.ErrNotEnoughStarted, rpctypes.ErrGRPCMemberNotEnoughStarted},
	{member.ErrUnhealthy, rpctypes.ErrGRPCUnhealthy},
	{member.ErrTooManyBackups, status.Error(codes.ResourceExhausted, member.ErrTooManyBackups.Error())},
	// gRPC tells the client "context canceled" and "context deadline exceeded",
	// as etcd leaves it to do.
	{context.Canceled, context.Canceled},
	{context.DeadlineExceeded, context.DeadlineExceeded},
}

// toGRPC translates an error of the storage. One that is gRPC's already
// passes; one without a row becomes Unknown with its text, as in etcd.
func toGRPC(err error) error {
	if err == nil {
		return nil
	}
	for i := range rows {
		if errors.Is(err, rows[i].storage) {
			return rows[i].grpc
		}
	}
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok { // A wrapped status has lost its meaning.
		return s.GRPCStatus().Err()
	}
	return status.Error(codes.Unknown, err.Error())
}

// unimplemented refuses what etcd can do and this store can not.
func unimplemented(text string) error {
	return status.Error(codes.Unimplemented, "pebbledash: "+text)
}
