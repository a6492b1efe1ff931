package member_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// TestBasis has every member do and read what rests on a table that another has
// changed, of which it may not know yet.
func TestBasis(t *testing.T) {
	c := newCluster(t, 3, nil)
	b := member.Basis{Table: "of-test"}
	for i := range 60 {
		writer, asker := c.nodes[i%3], c.nodes[(i+1+i/3%2)%3]
		version, err := writer.WriteRecords(t.Context(), b.Table, b.Version, []mvcc.RecordWrite{{Key: "k", Value: []byte{byte(i)}}})
		require.NoError(t, err)
		before := writer.Revision()
		key := fmt.Appendf(nil, "/registry/pods/%d", i)

		_, err = asker.DoOn(t.Context(), &evaluate.Put{Key: key, Value: []byte("v")}, b)
		require.ErrorIs(t, err, evaluate.ErrRecordsChanged)
		_, err = asker.ReadOn(t.Context(), &evaluate.Range{Key: key}, false, b)
		require.ErrorIs(t, err, evaluate.ErrRecordsChanged)
		res, err := asker.Read(t.Context(), &evaluate.Range{Key: key}, false)
		require.NoError(t, err)
		require.Zero(t, res.Count, "what rests on nothing any more was done")
		require.Equal(t, before, res.Revision)

		b.Version = version
		res, err = asker.DoOn(t.Context(), &evaluate.Put{Key: key, Value: []byte("v")}, b)
		require.NoError(t, err)
		require.Equal(t, before+1, res.Revision)
		res, err = asker.ReadOn(t.Context(), &evaluate.Range{Key: key}, false, b)
		require.NoError(t, err)
		require.EqualValues(t, 1, res.Count)
		_, err = asker.ReadOn(t.Context(), &evaluate.Range{Key: key}, true, b)
		require.NoError(t, err)
	}
}
