package mvcc_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// A raw row's key: the core group's table and what follows.
func rawKey(table byte, rest string) []byte {
	return engine.AppendPrefix(append([]byte{0, 1, table}, rest...))
}

func rawVersion(key string, main, sub int64) []byte {
	return engine.AppendVersion(append([]byte{0, 1, 'k'}, key...), main, sub)
}

// TestDamagedMeta opens stores whose own records make no sense.
func TestDamagedMeta(t *testing.T) {
	for _, c := range []struct{ name, row, value, want string }{
		{"short applied index", "applied", "short", "bad row of the applied index"},
		{"short compacted revision", "compacted", "\x05", "bad row compacted"},
		{"short scrubbed revision", "scrubbed", "", "bad row scrubbed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(t)
			s.apply([]string{"put a 1", "put a 2", "compact 2"})
			require.NoError(t, s.db.Set(rawKey('m', c.row), []byte(c.value), engine.NoSync))
			_, err := mvcc.Open(s.db, mvcc.CoreGroup)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// TestDamagedRows reads rows that make no sense: whoever reads them is told.
func TestDamagedRows(t *testing.T) {
	ctx := context.Background()
	all := mvcc.SpanOf([]byte{0}, []byte{0})
	get := func(s *mvcc.Store) error { _, err := s.Get([]byte("a"), 3); return err }
	head := func(s *mvcc.Store) error { _, _, err := s.Head([]byte("a")); return err }
	scan := func(s *mvcc.Store) error {
		sc, err := s.Scan(ctx, all, 3)
		if err != nil {
			return err
		}
		defer func() { _ = sc.Close() }()
		for sc.Next() {
			if _, err := sc.KV(false); err != nil {
				return err
			}
		}
		return sc.Err()
	}
	changes := func(s *mvcc.Store) error {
		return s.Changes(ctx, all, 1, 3, func(*mvccpb.Event) error { return nil })
	}
	hash := func(s *mvcc.Store) error { _, _, _, err := s.HashKV(ctx, 0); return err }
	scrub := func(s *mvcc.Store) error { return s.Scrub(100, func() bool { return true }) }
	leases := func(s *mvcc.Store) error { return s.Leases(func(_, _, _ int64) {}) }

	for _, c := range []struct {
		name       string
		key, value []byte
		want       string
		reads      map[string]func(*mvcc.Store) error
	}{
		{
			"a record cut short", rawVersion("a", 3, 0),
			[]byte{2, 2},
			"mvcc: bad record of 2 bytes at revision 3",
			map[string]func(*mvcc.Store) error{"get": get, "head": head, "scan": scan, "changes": changes, "hash": hash},
		},
		{
			"a version that is no version", rawKey('k', "a"),
			[]byte{2, 2, 0},
			"has no version",
			map[string]func(*mvcc.Store) error{"scan": scan},
		},
		{
			"a revision without a version", rawKey('r', "\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x09"), []byte("a"),
			`mvcc: the state is damaged: revision 3.9 of key "a" has no row`,
			map[string]func(*mvcc.Store) error{"changes": changes, "hash": hash},
		},
		{
			"a short revision", rawKey('r', "\x00\x00\x00\x00\x00\x00\x00\x03\x05"), []byte("a"), "mvcc: bad revision row",
			map[string]func(*mvcc.Store) error{"changes": changes, "hash": hash, "scrub": scrub},
		},
		{
			"a lease cut short", rawKey('l', "\x00\x00\x00\x00\x00\x00\x00\x07"),
			[]byte{60},
			"mvcc: bad lease row 3c",
			map[string]func(*mvcc.Store) error{"leases": leases},
		},
	} {
		for name, read := range c.reads {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				s := newScript(t)
				s.apply([]string{"put a 1", "put a 2"})
				require.NoError(t, read(s.store))
				require.NoError(t, s.db.Set(c.key, c.value, engine.NoSync))
				if name == "scrub" {
					s.apply([]string{"compact 3"})
				}
				require.ErrorContains(t, read(s.store), c.want)
			})
		}
	}
}
