package member

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStill(t *testing.T) {
	var s still
	for i, step := range []struct {
		at, goal uint64
		ticks    int64
	}{
		{5, 5, 0}, {5, 6, 1}, {5, 6, 2}, {6, 9, 0}, {6, 9, 1}, {9, 9, 0}, {9, 9, 0}, {9, 10, 1},
	} {
		s.look(step.at, step.goal)
		require.Equal(t, step.ticks, s.ticks.Load(), "step %d", i)
	}
}

func TestGroupAndClosedProblems(t *testing.T) {
	m := &Member{cfg: Config{TickInterval: 100 * time.Millisecond, ElectionTicks: 10}}
	const long = 3 * time.Second
	require.NoError(t, m.groupProblem(1, 10, 10, long))
	require.NoError(t, m.groupProblem(1, 10, 11, long), "committed was read before applied")
	require.NoError(t, m.groupProblem(1, 10, 9, long-1))
	require.NoError(t, m.groupProblem(1, 5000, 0, 0))
	require.EqualError(t, m.groupProblem(0, 10, 10, 0), "no leader is known")
	require.EqualError(t, m.groupProblem(1, 5001, 0, 0), "5001 entries behind: applied 0 of 5001 committed")
	require.EqualError(t, m.groupProblem(1, 10, 9, long), "nothing was applied for 3s: applied 9 of 10 committed")
	require.NoError(t, m.closedProblem(7, 7, long))
	require.NoError(t, m.closedProblem(6, 7, long-1))
	require.EqualError(t, m.closedProblem(6, 7, long), "the closed revision has been 6 for 3s, below 7")
}
