package fill

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBatches(t *testing.T) {
	for _, c := range []struct{ from, to, stride, size int }{
		{0, 1000, 1, 100}, {0, 1001, 1, 100}, {5, 7, 1, 100}, {0, 1000, 4, 100}, {3, 1234, 7, 10}, {0, 3, 16, 100}, {0, 0, 1, 1},
	} {
		seen := map[int]int{}
		for _, b := range Batches(c.from, c.to, c.stride, c.size) {
			require.Positive(t, b.n, "%v", c)
			require.LessOrEqual(t, b.n, c.size, "%v", c)
			for j := range b.n {
				key := b.first + j*b.stride
				require.Equal(t, (b.first-c.from)%c.stride, (key-c.from)%c.stride, "%v: one resource a transaction", c)
				seen[key]++
			}
		}
		require.Len(t, seen, c.to-c.from, "%v", c)
		for key, n := range seen {
			require.Equal(t, 1, n, "%v: key %d", c, key)
			require.True(t, c.from <= key && key < c.to, "%v: key %d", c, key)
		}
	}
}
