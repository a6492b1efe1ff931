package group

import (
	"bytes"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEntryHeader(t *testing.T) {
	for _, h := range []entryHeader{
		{0, 0, 0}, {1, 1, 1}, {5, 3, 127}, {128, 300, 1 << 40}, {math.MaxUint64, math.MaxUint64, math.MaxUint64},
	} {
		for _, effects := range []string{"", "x", "\x00\xff effects"} {
			data := append(h.append(nil), effects...)
			got, rest, err := splitEntry(data)
			require.NoError(t, err)
			require.Equal(t, h, got)
			require.Equal(t, effects, string(rest))
		}
	}
	// The format of the log: it can't change without a new first byte.
	require.Equal(t, []byte{1, 0xac, 0x02, 2, 3}, entryHeader{term: 300, epoch: 2, number: 3}.append(nil))
}

func TestEntryHeaderRefused(t *testing.T) {
	data := entryHeader{300, 300, 300}.append(nil)
	for n := range data {
		_, _, err := splitEntry(data[:n])
		require.ErrorIs(t, err, errShortHeader, "the first %d bytes", n)
	}
	_, _, err := splitEntry(append([]byte{2}, data[1:]...))
	require.ErrorContains(t, err, "format 2 is not known")
	_, _, err = splitEntry(append([]byte{1}, bytes.Repeat([]byte{0xff}, 20)...))
	require.ErrorIs(t, err, errShortHeader)
}

func FuzzSplitEntry(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1})
	f.Add(append(entryHeader{300, 2, 3}.append(nil), "effects"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, effects, err := splitEntry(data)
		if err != nil {
			return
		}
		again, rest, err := splitEntry(append(h.append(nil), effects...))
		require.NoError(t, err)
		require.Equal(t, h, again)
		require.Equal(t, effects, rest)
	})
}
