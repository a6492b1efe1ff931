package record

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWriteAndRead(t *testing.T) {
	f := &File{
		Name: "x", Mode: "full", Last: "etcd", About: [][2]string{{"commit", "1"}},
		Rows: []Row{
			{Sheet: "s", Title: "a <title>", First: "f", Row: "1/1", Peer: "etcd", Values: Values{"p50 ms": {1, 2.5}}},
			{Sheet: "s", Row: "8/64", Peer: "kine", Values: Values{"p50 ms": {math.NaN()}}},
		},
	}
	var text strings.Builder
	require.NoError(t, f.Write(&text))
	require.Equal(t, 3, strings.Count(text.String(), "\n"))
	got, err := Read("x", strings.NewReader(text.String()))
	require.NoError(t, err)
	require.True(t, math.IsNaN(got.Rows[1].Values["p50 ms"][0]), "nothing is not zero")
	got.Rows[1], f.Rows[1] = Row{}, Row{}
	require.Equal(t, f, got)

	_, err = Read("x", strings.NewReader(text.String()+"{"))
	require.ErrorContains(t, err, "x, line 4")
}

func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"2026-02-b", "2026-01-a"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+Suffix), []byte(`{"mode":"full"}`), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "2026-03.txt"), nil, 0o600))
	files, err := ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 2)
	require.Equal(t, "2026-01-a", files[0].Name, "the oldest first")
}
