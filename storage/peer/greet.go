package peer

import (
	"encoding/binary"
	"fmt"
)

// version is the newest version of the protocol, oldestVersion the oldest, that this
// code speaks.
const (
	version       = 1
	oldestVersion = 1
)

// hello is what the dialing side says first.
type hello struct {
	newest, oldest    byte
	cluster, from, to uint64
}

const (
	helloBytes   = 2 + 3*8
	welcomeBytes = 2 + 2*8
)

func (h hello) encode() []byte {
	b := make([]byte, 0, helloBytes)
	b = append(b, h.newest, h.oldest)
	b = binary.BigEndian.AppendUint64(b, h.cluster)
	b = binary.BigEndian.AppendUint64(b, h.from)
	return binary.BigEndian.AppendUint64(b, h.to)
}

func decodeHello(b []byte) (hello, error) {
	// A newer version may say more.
	if len(b) < helloBytes {
		return hello{}, fmt.Errorf("%w: a greeting of %d bytes", ErrProtocol, len(b))
	}
	return hello{
		newest:  b[0],
		oldest:  b[1],
		cluster: binary.BigEndian.Uint64(b[2:]),
		from:    binary.BigEndian.Uint64(b[10:]),
		to:      binary.BigEndian.Uint64(b[18:]),
	}, nil
}

// check says why a member that greets so may not come in, if it may not.
func (h hello) check(cluster, member uint64) *failure {
	refuse := func(class byte, format string, args ...any) *failure {
		return &failure{class: class, message: fmt.Sprintf(format, args...)}
	}
	switch {
	case h.newest < oldestVersion || h.oldest > version:
		return refuse(classVersion, "%d to %d here, %d to %d there", oldestVersion, version, h.oldest, h.newest)
	case h.cluster != cluster:
		return refuse(classCluster, "%x, and member %s is of %x", h.cluster, formatID(member), cluster)
	case h.to != member:
		return refuse(classMember, "member %s, and not %s", formatID(member), formatID(h.to))
	case h.from == 0 || h.from == member:
		return refuse(classMember, "member %s cannot come from elsewhere", formatID(h.from))
	default:
		return nil
	}
}

// welcome makes the answer to a greeting that is fine.
func (h hello) welcome() []byte {
	b := make([]byte, 0, welcomeBytes)
	b = append(b, classNone, min(version, h.newest))
	b = binary.BigEndian.AppendUint64(b, h.cluster)
	return binary.BigEndian.AppendUint64(b, h.to)
}

// checkAnswer returns why the other side did not take our greeting, or is not who we
// look for.
func (h hello) checkAnswer(b []byte) error {
	b, err := answer(b)
	if err != nil {
		return &refusedError{err}
	}
	if len(b) < welcomeBytes-1 {
		return fmt.Errorf("%w: a welcome of %d bytes", ErrProtocol, len(b))
	}
	cluster, member := binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:])
	switch {
	case b[0] < oldestVersion || b[0] > version:
		return fmt.Errorf("%w: %d", ErrVersionMismatch, b[0])
	case cluster != h.cluster:
		return &refusedError{fmt.Errorf("%w: %x, and not %x", ErrClusterMismatch, cluster, h.cluster)}
	case member != h.to:
		return fmt.Errorf("%w: %s, and not %s", ErrMemberMismatch, formatID(member), formatID(h.to))
	}
	return nil
}

// refusedError is what the other side says when it does not take a connection.
type refusedError struct{ error }

func (e *refusedError) Unwrap() error { return e.error }
