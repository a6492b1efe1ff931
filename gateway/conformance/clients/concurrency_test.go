package clients

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func TestMutex(t *testing.T) {
	t.Parallel()
	c := one(t)
	first, second, third := session(t, c), session(t, c), session(t, c)
	mine, yours, theirs := concurrency.NewMutex(first, "/door"), concurrency.NewMutex(second, "/door"), concurrency.NewMutex(third, "/door")
	require.NoError(t, mine.Lock(within(t)))
	require.ErrorIs(t, yours.TryLock(within(t)), concurrency.ErrLocked)

	// The owner can make its writes depend on that it still is.
	r, err := c.Txn(within(t)).If(mine.IsOwner()).Then(clientv3.OpPut("/inside", "mine")).Commit()
	require.NoError(t, err)
	require.True(t, r.Succeeded)

	// Who leaves gives its place up.
	queue := watch(t, c, "/door/")
	impatient, cancel := context.WithCancel(within(t))
	left := make(chan error, 1)
	go func() { left <- yours.Lock(impatient) }()
	require.True(t, queue().IsCreate())
	cancel()
	require.ErrorIs(t, <-left, context.Canceled)

	// Who waits gets it when the owner's lease is gone.
	locked := make(chan error, 1)
	go func() { locked <- theirs.Lock(within(t)) }()
	require.NoError(t, first.Close())
	require.NoError(t, <-locked)
	r, err = c.Txn(within(t)).If(mine.IsOwner()).Then(clientv3.OpPut("/inside", "mine")).Commit()
	require.NoError(t, err)
	require.False(t, r.Succeeded)
	require.NoError(t, theirs.Unlock(within(t)))
	require.NoError(t, yours.TryLock(within(t)))
}

func TestElection(t *testing.T) {
	t.Parallel()
	c := one(t)
	one, two := session(t, c), session(t, c)
	first, second := concurrency.NewElection(one, "/bread"), concurrency.NewElection(two, "/bread")
	_, err := first.Leader(within(t))
	require.ErrorIs(t, err, concurrency.ErrElectionNoLeader)
	seen := second.Observe(within(t))
	next := func() string {
		t.Helper()
		r := <-seen
		require.NotNil(t, r)
		return string(r.Kvs[0].Value)
	}

	require.NoError(t, first.Campaign(within(t), "rye"))
	require.Equal(t, "rye", next())
	require.NoError(t, first.Proclaim(within(t), "wheat"))
	require.Equal(t, "wheat", next())

	won := make(chan error, 1)
	go func() { won <- second.Campaign(within(t), "oats") }()
	// Who comes back with what it was given is the leader again.
	again := concurrency.ResumeElection(one, "/bread", first.Key(), first.Rev())
	require.NoError(t, again.Proclaim(within(t), "spelt"))
	require.Equal(t, "spelt", next())
	require.NoError(t, again.Resign(within(t)))
	require.NoError(t, <-won)
	require.Equal(t, "oats", next())
	require.ErrorIs(t, first.Proclaim(within(t), "rye"), concurrency.ErrElectionNotLeader)
	require.NoError(t, two.Close())
	_, err = first.Leader(within(t))
	require.ErrorIs(t, err, concurrency.ErrElectionNoLeader)
}

// between runs a transaction, and something else after its first reads, once.
func between(t *testing.T, c *clientv3.Client, level concurrency.Isolation, reads []string, meanwhile func(), writes func(stm concurrency.STM)) (attempts int, saw []string, err error) {
	t.Helper()
	_, err = concurrency.NewSTM(c, func(stm concurrency.STM) error {
		attempts++
		saw = nil
		for i, key := range reads {
			saw = append(saw, stm.Get(key))
			if i == 0 && attempts == 1 {
				meanwhile()
			}
		}
		writes(stm)
		return nil
	}, concurrency.WithIsolation(level), concurrency.WithAbortContext(within(t)))
	return attempts, saw, err
}

// What another transaction may do to one, by how isolated it is.
func TestIsolation(t *testing.T) {
	t.Parallel()
	c := one(t)
	for _, l := range []struct {
		name  string
		level concurrency.Isolation
		// The transaction has read a when another one changes a, b, or a key that
		// the first one writes.
		changedRead, changedUnread, changedWritten int
	}{
		{"serializable snapshot", concurrency.SerializableSnapshot, 2, 2, 2},
		{"serializable", concurrency.Serializable, 2, 2, 1},
		{"repeatable reads", concurrency.RepeatableReads, 2, 1, 1},
		{"read committed", concurrency.ReadCommitted, 1, 1, 1},
	} {
		t.Run(l.name, func(t *testing.T) {
			write := func(stm concurrency.STM) { stm.Put("out", "x") }
			for _, change := range []struct {
				key      string
				attempts int
			}{{"a", l.changedRead}, {"b", l.changedUnread}, {"out", l.changedWritten}} {
				put(t, c, "a", "1")
				put(t, c, "b", "1")
				put(t, c, "out", "1")
				attempts, saw, err := between(t, c, l.level, []string{"a", "b"},
					func() { put(t, c, change.key, "2") }, write)
				require.NoError(t, err)
				require.Equal(t, change.attempts, attempts, "%s was changed", change.key)
				if change.attempts == 2 {
					want := map[string]string{"a": "1", "b": "1"}
					if change.key != "out" {
						want[change.key] = "2"
					}
					require.Equal(t, []string{want["a"], want["b"]}, saw)
				}
				require.Equal(t, "x", get(t, c, "out"))
			}
		})
	}
	t.Run("an error undoes it", func(t *testing.T) {
		failure := errors.New("no")
		put(t, c, "out", "1")
		_, err := concurrency.NewSTM(c, func(stm concurrency.STM) error {
			stm.Put("out", "x")
			stm.Del("a")
			require.Equal(t, "x", stm.Get("out"), "it sees what it has written")
			require.Empty(t, stm.Get("a"))
			return failure
		})
		require.ErrorIs(t, err, failure)
		require.Equal(t, "1", get(t, c, "out"))
	})
	t.Run("keys fetched at once", func(t *testing.T) {
		put(t, c, "a", "1")
		_, err := concurrency.NewSTM(c, func(stm concurrency.STM) error {
			stm.Put("out", fmt.Sprint(stm.Rev("a") > 0, stm.Get("a"), stm.Get("none")))
			return nil
		}, concurrency.WithPrefetch("a", "none"))
		require.NoError(t, err)
		require.Equal(t, "true1", get(t, c, "out"))
	})
}
