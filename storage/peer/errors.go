package peer

import (
	"errors"
	"fmt"
)

var (
	// ErrNotSent says that a call or a snapshot has not reached the other member
	// and will not.
	ErrNotSent = errors.New("peer: not sent")
	// ErrUnknown says that the connection was lost, or that the caller gave up,
	// after something may have been sent. Whether it took effect is not known.
	ErrUnknown = errors.New("peer: sent, but the outcome is not known")
	// ErrBusy says that too many calls, or too many bytes, are under way. This one
	// was not handled.
	ErrBusy = errors.New("peer: too many calls")
	// ErrClusterMismatch says that the other side is of another cluster.
	ErrClusterMismatch = errors.New("peer: the member is of another cluster")
	// ErrMemberMismatch says that at a member's URL there is another one.
	ErrMemberMismatch = errors.New("peer: another member is at this URL")
	// ErrVersionMismatch says that two members have no version of the protocol in
	// common.
	ErrVersionMismatch = errors.New("peer: no version of the protocol in common")
	// ErrProtocol says that the other side does not keep to the protocol.
	ErrProtocol = errors.New("peer: the protocol was violated")

	errFull   = errors.New("peer: the queue is full")
	errClosed = errors.New("peer: the connection is closed")
)

// RemoteError is an error that the Handler of the other side returned. A Handler
// that returns one chooses the code; any other error arrives with code 0.
type RemoteError struct {
	Code    byte
	Message string
}

func (e *RemoteError) Error() string { return fmt.Sprintf("%s (code %d)", e.Message, e.Code) }

// Classes of failures, and reasons why a connection is refused. They are part of the
// protocol, and should not be changed.
const (
	classNone    = 0
	classRemote  = 1
	classBusy    = 2
	classUnknown = 3
	classCluster = 4
	classMember  = 5
	classVersion = 6
)

// maxMessage bounds the text of an error on its way.
const maxMessage = 4 << 10

// failure is an error in the form in which it travels.
type failure struct {
	class, code byte
	message     string
}

// failureOf translates what a Handler returned.
func failureOf(err error) failure {
	var remote *RemoteError
	f := failure{class: classRemote}
	switch {
	case errors.As(err, &remote):
		f.code, f.message = remote.Code, remote.Message
	case errors.Is(err, ErrBusy):
		f.class = classBusy
	default:
		f.message = err.Error()
	}
	f.message = f.message[:min(len(f.message), maxMessage)]
	return f
}

// err translates what the other side said.
func (f failure) err() error {
	switch f.class {
	case classRemote:
		return &RemoteError{Code: f.code, Message: f.message}
	case classBusy:
		return ErrBusy
	case classUnknown:
		return fmt.Errorf("%w: %s", ErrUnknown, f.message)
	case classCluster:
		return fmt.Errorf("%w: %s", ErrClusterMismatch, f.message)
	case classMember:
		return fmt.Errorf("%w: %s", ErrMemberMismatch, f.message)
	case classVersion:
		return fmt.Errorf("%w: %s", ErrVersionMismatch, f.message)
	default:
		return fmt.Errorf("%w: failure of class %d", ErrProtocol, f.class)
	}
}

// append appends f as an answer or a refusal.
func (f failure) append(b []byte) []byte {
	return append(append(b, f.class, f.code), f.message...)
}

// answer returns the payload of an answer, or its error.
func answer(b []byte) ([]byte, error) {
	if len(b) > 0 && b[0] == classNone {
		return b[1:], nil
	}
	if len(b) < 2 {
		return nil, fmt.Errorf("%w: an answer of %d bytes", ErrProtocol, len(b))
	}
	return nil, failure{class: b[0], code: b[1], message: string(b[2:])}.err()
}
