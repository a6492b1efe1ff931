package member

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// records are the tables of the cluster's records (storage/mvcc, records.go) that
// were asked for, as core has them applied here.
type records struct {
	mu sync.Mutex // is held by who changes the field below; core's store is read under it
	// tables has every name that was asked for, with a *table, nil where it must be read
	// anew. Every write looks one up, and waits for nobody.
	tables sync.Map
	// changed is told after every change.
	changed news
}

type table struct {
	version int64
	rows    map[string][]byte
}

// applied forgets what was changed, all tables if it is nil, and returns them.
func (r *records) applied(tables []string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if tables == nil {
		r.tables.Range(func(name, _ any) bool {
			tables = append(tables, name.(string))
			return true
		})
	}
	for _, t := range tables {
		if _, ok := r.tables.Load(t); ok {
			r.tables.Store(t, (*table)(nil))
		}
	}
	return tables
}

// recordsChanged is told what core has applied.
func (m *Member) recordsChanged(tables []string) {
	tables = m.records.applied(tables)
	if slices.Contains(tables, MirrorTable) {
		if err := m.lookAtMirror(); err != nil {
			m.fail(err)
			return
		}
	}
	if m.cfg.RecordsChanged != nil {
		for _, t := range tables {
			m.cfg.RecordsChanged(t)
		}
	}
	// Last: who has waited for the change goes by what was told of it.
	m.records.changed.tell()
}

// Records returns a table of the cluster's records and its version, the number of its
// changes, as far as they are applied here. The rows must not be changed. An error
// is one of the disk.
func (m *Member) Records(name string) (version int64, rows map[string][]byte, err error) {
	r := &m.records
	if v, ok := r.tables.Load(name); ok && v.(*table) != nil {
		t := v.(*table)
		return t.version, t.rows, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// Core forgets a table after it has applied a change: what is read here is never
	// kept for longer than that.
	t := new(table)
	if t.version, t.rows, err = m.core.store.Records(name); err != nil {
		return 0, nil, err
	}
	r.tables.Store(name, t)
	return t.version, t.rows, nil
}

// RecordsNow is Records with everything that was acknowledged before the call.
func (m *Member) RecordsNow(ctx context.Context, name string) (version int64, rows map[string][]byte, err error) {
	reply, err := m.ask(ctx, methodRecords, []byte(name))
	if err != nil {
		return 0, nil, err
	}
	least, n := binary.Uvarint(reply)
	if n <= 0 {
		return 0, nil, errors.New("member: bad answer of the leader to the version of records")
	}
	if err := m.waitRecords(ctx, name, int64(least)); err != nil {
		return 0, nil, err
	}
	return m.Records(name)
}

// serveRecords answers, at the sequencer, with a table's version.
func (m *Member) serveRecords(ctx context.Context, payload []byte) ([]byte, error) {
	if _, err := m.pointHere(ctx, 0); err != nil {
		return nil, err
	}
	version, _, err := m.Records(string(payload))
	return binary.AppendUvarint(nil, uint64(version)), err
}

// WriteRecords changes a table whose version is still version, and returns the new one
// when the change is applied here. evaluate.ErrRecordsChanged says that the version
// is another, and nothing was changed; after an error that is not of package evaluate
// the outcome is not known.
func (m *Member) WriteRecords(
	ctx context.Context, name string, version int64, writes []mvcc.RecordWrite,
) (now int64, err error) {
	if _, err := m.Do(ctx, &evaluate.Records{Table: name, Version: version, Writes: writes}); err != nil {
		return 0, err
	}
	// Records have no revision: that the sequencer's answer is here says nothing of them.
	return version + 1, m.waitRecords(ctx, name, version+1)
}

// waitRecords waits until a table has at least a version here.
func (m *Member) waitRecords(ctx context.Context, name string, least int64) error {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	for {
		changed := m.records.changed.wait()
		version, _, err := m.Records(name)
		if err != nil || version >= least {
			return err
		}
		select {
		case <-changed:
		case <-m.stopCtx.Done():
			return m.cause(ctx)
		case <-ctx.Done():
			return m.cause(ctx)
		}
	}
}
