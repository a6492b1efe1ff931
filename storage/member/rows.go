package member

import (
	"context"
	"io"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// rows are a group's rows that have come from another member, in files beside
// the state.
type rows struct {
	*mvcc.Ingest
	m *Member
	p *part
}

// takeRows takes what another member sends of a group.
func (m *Member) takeRows(p *part, next func() ([]byte, error)) (rows, error) {
	in, err := mvcc.NewIngest(m.state, m.cfg.FS, m.dir.StateDir(), p.id)
	if err != nil {
		return rows{}, err
	}
	for {
		chunk, err := next()
		if err == io.EOF { //nolint:errorlint // next's own.
			break
		}
		if err == nil {
			err = in.Add(chunk)
		}
		if err != nil {
			in.Drop()
			return rows{}, err
		}
	}
	if err := in.Finish(); err != nil {
		in.Drop()
		return rows{}, err
	}
	return rows{in, m, p}, nil
}

// Commit implements group.Rows.
func (r rows) Commit() error {
	return r.Ingest.Commit(context.WithoutCancel(r.m.stopCtx), r.p.store)
}

// Floor implements group.Rows.
func (r rows) Floor() int64 { return r.Scrubbed() }
