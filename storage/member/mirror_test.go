package member_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// TestMirror mirrors through every member: while a cluster mirrors nobody can change
// anything, wherever they ask, and it remembers that it does.
func TestMirror(t *testing.T) {
	c := newCluster(t, 3, nil)
	mirror := func(i int, op *evaluate.Mirror) (evaluate.Result, error) { return c.nodes[i].Do(t.Context(), op) }
	_, err := mirror(1, &evaluate.Mirror{After: 1})
	require.ErrorIs(t, err, evaluate.ErrNotMirroring)
	_, err = c.nodes[2].WriteRecords(t.Context(), member.MirrorTable, 0, []mvcc.RecordWrite{{Key: member.MirrorOn, Value: []byte("{}")}})
	require.NoError(t, err)
	put := func(i int, key string) (evaluate.Result, error) {
		return c.nodes[i].Do(t.Context(), &evaluate.Put{Key: []byte(key), Value: []byte("1")})
	}
	refused := func() {
		t.Helper()
		for i := range c.nodes {
			for _, key := range []string{"a", "/registry/pods/x/y", "/registry/events/x/y"} {
				_, err := put(i, key)
				require.ErrorIs(t, err, evaluate.ErrMirroring)
			}
			_, err := c.nodes[i].Do(t.Context(), &evaluate.LeaseGrant{ID: 9, TTL: 60})
			require.ErrorIs(t, err, evaluate.ErrMirroring)
		}
	}
	refused()
	last := int64(1)
	for i := range c.nodes {
		op := &evaluate.Mirror{After: last, Grants: []evaluate.LeaseGrant{{ID: int64(i + 1), TTL: 1}}}
		for range 50 {
			last += 3
			key := fmt.Appendf(nil, "/registry/%s/x/%d", [...]string{"pods", "events", "other"}[last%3], last)
			op.Revisions = append(op.Revisions, evaluate.MirrorRevision{Revision: last, Changes: []evaluate.MirrorChange{
				{Key: key, Value: []byte("x"), Create: last, Version: 1, Lease: int64(i + 1)},
			}})
		}
		op.Compact = last - 20
		for j := range c.nodes {
			res, err := mirror((i+j)%3, op) // twice is as once
			require.NoError(t, err)
			require.Equal(t, last, res.Revision)
			require.Equal(t, last-20, c.nodes[(i+j)%3].Compacted())
			res, err = c.nodes[(i+j)%3].Read(t.Context(), &evaluate.Range{Key: []byte{0}, End: []byte{0}, CountOnly: true}, false)
			require.NoError(t, err)
			require.Equal(t, last, res.Revision)
			require.EqualValues(t, 50*(i+1), res.Count)
		}
	}
	_, err = mirror(0, &evaluate.Mirror{After: last + 1})
	require.ErrorIs(t, err, evaluate.ErrMirrorGap)

	for _, n := range c.nodes {
		n.close()
	}
	c.open(c.nodes...)
	refused()
	_, err = c.nodes[1].WriteRecords(t.Context(), member.MirrorTable, 1, []mvcc.RecordWrite{{Key: member.MirrorOn}})
	require.NoError(t, err)
	res, err := put(0, "a")
	require.NoError(t, err)
	require.Equal(t, last+1, res.Revision)
}
