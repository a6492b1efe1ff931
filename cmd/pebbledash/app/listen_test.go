package app

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	u, err := url.Parse("unix://" + path)
	require.NoError(t, err)

	first, err := listen([]url.URL{*u}, nil)
	require.NoError(t, err)
	_, err = listen([]url.URL{*u}, nil)
	require.ErrorContains(t, err, "is in use")
	conn, err := net.Dial("unix", path)
	require.NoError(t, err, "the one that is in use has been left alone")
	conn.Close()

	// A process that is killed leaves its socket behind.
	first[0].Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, closeAll(first))
	require.FileExists(t, path)
	second, err := listen([]url.URL{*u}, nil)
	require.NoError(t, err)
	require.NoError(t, closeAll(second))
	require.NoError(t, closeAll(second), "closing again is no error")
	require.NoFileExists(t, path)

	require.NoError(t, os.WriteFile(path, []byte("precious"), 0o600))
	_, err = listen([]url.URL{*u}, nil)
	require.ErrorContains(t, err, "is no socket")
	require.FileExists(t, path)
}

// A listener that cannot be opened takes the earlier ones with it.
func TestListenAllOrNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, free.Close())

	_, err = listen([]url.URL{
		{Scheme: "http", Host: free.Addr().String()},
		{Scheme: "http", Host: taken.Addr().String()},
	}, nil)
	require.Error(t, err)
	again, err := net.Listen("tcp", free.Addr().String())
	require.NoError(t, err)
	again.Close()
}
