package member

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/evaluate/wire"
)

// A Basis is what a request rests on: a table of records as it was at a version. The
// request was checked against it.
type Basis struct {
	Table   string
	Version int64
}

// stands returns evaluate.ErrRecordsChanged if a newer version is applied here.
func (m *Member) stands(b Basis) error {
	version, _, err := m.Records(b.Table)
	if err == nil && version > b.Version {
		err = evaluate.ErrRecordsChanged
	}
	return err
}

// DoOn is Do of a request that rests on a table. Nothing is done, with
// evaluate.ErrRecordsChanged, if another change of the table was acknowledged before
// the call. One that comes between the sequencer's look and the evaluation is not
// noticed: to others it is as if the request had come first.
func (m *Member) DoOn(ctx context.Context, op evaluate.Op, b Basis) (res evaluate.Result, err error) {
	err = m.asSequencer(ctx, func(ctx context.Context) error {
		if !m.reigning.Load() {
			res, err = m.haveDone(ctx, op, methodDoOn, wire.AppendOp(b.append(nil), op))
			return err
		}
		// Who reigns has applied what was acknowledged before it did.
		if err = m.stands(b); err == nil {
			res, err = m.doHere(ctx, op)
		}
		return err
	})
	if err == nil {
		m.metrics.answered(op, &res)
	}
	return res, err
}

// serveDoOn is DoOn at the sequencer, for another member.
func (m *Member) serveDoOn(ctx context.Context, payload []byte) ([]byte, error) {
	b, payload, err := decodeBasis(payload)
	if err != nil {
		return nil, err
	}
	if err := m.stands(b); err != nil {
		return nil, err
	}
	return m.serve(ctx, methodDo, payload)
}

// ReadOn is Read of a request that rests on a table: it fails with
// evaluate.ErrRecordsChanged if the table was changed before the answer was there, or
// unless serializable is set before the call, anywhere.
func (m *Member) ReadOn(ctx context.Context, op evaluate.Op, serializable bool, b Basis) (evaluate.Result, error) {
	mask := m.needs(op)
	if !serializable {
		mask |= 1 // core has the records
	}
	res, err := m.atHead(ctx, mask, serializable, func(head int64) (evaluate.Result, error) {
		return m.readAt(ctx, op, head)
	})
	if err == nil {
		err = m.stands(b)
	}
	if err == nil {
		m.metrics.answered(op, &res)
	}
	return res, err
}

// append encodes b, for another member.
func (b Basis) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(b.Version))
	return append(binary.AppendUvarint(dst, uint64(len(b.Table))), b.Table...)
}

// decodeBasis returns what append has encoded, and what stands behind it.
func decodeBasis(data []byte) (b Basis, rest []byte, err error) {
	version, n := binary.Uvarint(data)
	data = data[max(n, 0):]
	size, k := binary.Uvarint(data)
	data = data[max(k, 0):]
	if n <= 0 || k <= 0 || size > uint64(len(data)) {
		return b, nil, errors.New("member: bad basis of a request")
	}
	return Basis{Table: string(data[:size]), Version: int64(version)}, data[size:], nil
}
