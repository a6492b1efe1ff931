package member_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// interrupted is a state whose first Get is followed by something else.
type interrupted struct {
	evaluate.Reader
	then *func()
}

func (r interrupted) Get(key []byte, rev int64) (*mvccpb.KeyValue, error) {
	kv, err := r.Reader.Get(key, rev)
	if then := *r.then; then != nil {
		*r.then = nil
		then()
	}
	return kv, err
}

// TestCompactionOvertakesTransaction has a compaction come between a transaction's
// condition, which does not hold any more when it comes, and the read that it takes
// the history of: the two must not be answered from different moments.
func TestCompactionOvertakesTransaction(t *testing.T) {
	var then func()
	m := start(t, engine.NewMem(), nil, func(cfg *member.Config) {
		cfg.Through = func(r evaluate.Reader) evaluate.Reader { return interrupted{r, &then} }
	})
	defer func() { require.NoError(t, m.Close()) }()
	k := []byte("k")
	put := func() { do(t, m, &evaluate.Put{Key: k}) }
	put()
	put()
	once := &evaluate.Txn{
		Compare: []evaluate.Compare{{Target: evaluate.CompareMod, Key: k, Number: 3}},
		Success: []evaluate.Op{&evaluate.Range{Key: k, Revision: 2}},
	}

	then = func() {
		put()
		do(t, m, &evaluate.Compact{Revision: 3})
	}
	res, err := m.Read(t.Context(), once, false)
	require.NoError(t, err)
	require.False(t, res.Succeeded)
	require.EqualValues(t, 4, res.Revision)

	// Where the condition still holds, the compaction is told.
	put()
	once.Compare[0].Number = 5
	then = func() { do(t, m, &evaluate.Compact{Revision: 5}) }
	_, err = m.Read(t.Context(), once, false)
	require.ErrorIs(t, err, mvcc.ErrCompacted)
}
