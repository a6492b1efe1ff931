package documents

import (
	"bytes"
	"compress/flate"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDocuments(t *testing.T) {
	for _, size := range []int{100, 1 << 10, 15 << 10} {
		require.Len(t, Pod(7, 1, size), size)
	}
	once, again := Pod(7, 1, 1024), Pod(7, 1, 1024)
	require.Equal(t, once, again)
	require.NotEqual(t, Pod(7, 1, 1024), Pod(8, 1, 1024))
	require.NotEqual(t, Pod(7, 1, 1024), Pod(7, 2, 1024))
	require.Len(t, Lease(3, 2), LeaseBytes)
	require.NotEqual(t, Lease(3, 2), Lease(3, 3))
	require.Len(t, Event(3), EventBytes)
	require.Len(t, Node(3, 0), NodeBytes)
}

// A thousand pods compress as a cluster's do: well, and not to nothing.
func TestCompressible(t *testing.T) {
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.DefaultCompression)
	require.NoError(t, err)
	const n, size = 1000, 1 << 10
	for i := range n {
		_, err := w.Write(Pod(i, 0, size))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	ratio := float64(n*size) / float64(packed.Len())
	require.Greater(t, ratio, 2.0)
	require.Less(t, ratio, 12.0)
}

// Nothing is cut off that tells one from another.
func TestRoom(t *testing.T) {
	require.True(t, bytes.HasSuffix(bytes.TrimRight(Lease(99_999, 99_999), " "), []byte("}}")))
	require.True(t, bytes.HasSuffix(bytes.TrimRight(Event(99_999), " "), []byte("}")))
}
