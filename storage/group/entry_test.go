package group

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sameEntry compares what entries say; a decoded one has empty parts, not none.
func sameEntry(t *testing.T, want, got entry) {
	t.Helper()
	require.Equal(t, string(want.effects), string(got.effects))
	require.Equal(t, string(want.parts), string(got.parts))
	want.effects, want.parts, got.effects, got.parts = nil, nil, nil, nil
	require.Equal(t, want, got)
}

func TestEntry(t *testing.T) {
	for _, n := range []uint64{0, 1, 127, 300, 1 << 40, math.MaxUint64} {
		for _, effects := range []string{"", "x", "\x00\xff effects"} {
			for _, e := range []entry{
				{kind: KindFence, epoch: n},
				{kind: KindEffects, epoch: n, number: n / 2, effects: []byte(effects)},
				{kind: KindDecision, epoch: n, number: n / 2, effects: []byte(effects), parts: []byte("parts")},
				{kind: KindDecision, epoch: n, number: n / 2, effects: []byte(effects)},
				{kind: KindPart, epoch: n, number: n / 2, id: n / 3, effects: []byte(effects)},
			} {
				got, err := decodeEntry(e.encode())
				require.NoError(t, err)
				sameEntry(t, e, got)
			}
			want := entry{kind: KindEffects, epoch: n, number: 7, effects: []byte(effects)}
			require.Equal(t, want.encode(), append(appendHeader(nil, n, 7), effects...))
		}
	}
}

// Entries are compressed where it is worth it, and are the same then.
func TestCompress(t *testing.T) {
	random := make([]byte, 5000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random)
	var compressor compressor
	var before, wasBefore []byte
	for _, c := range []struct {
		effects []byte
		smaller bool
	}{
		{nil, false},
		{bytes.Repeat([]byte("a"), worthCompressing/2), false},
		{bytes.Repeat([]byte("a"), worthCompressing), true},
		{bytes.Repeat([]byte("some words "), 100_000), true},
		{random, false},
		{append(random, bytes.Repeat([]byte("a"), 400)...), false},
	} {
		e := entry{kind: KindDecision, epoch: 1 << 40, number: 7, effects: c.effects, parts: []byte("parts")}
		data := e.encode()
		small := compressor.compress(data)
		require.Equal(t, c.smaller, len(small) < len(data))
		require.Equal(t, wasBefore, before, "what was returned is not used again")
		before, wasBefore = small, bytes.Clone(small)
		got, err := decodeEntry(small)
		require.NoError(t, err)
		sameEntry(t, e, got)
		for n := range min(len(small), 100) {
			if c.smaller {
				_, err := decodeEntry(small[:n])
				require.Error(t, err)
			}
		}
	}
	// A few bytes that say they are many.
	_, err := decodeEntry(append([]byte{compressedFormat}, binary.AppendUvarint(nil, maxEntryData+1)...))
	require.ErrorContains(t, err, "an entry of 1073741825 bytes")
}

// TestEntryIsAsWritten: the format of the log can't change without a new first
// byte.
func TestEntryIsAsWritten(t *testing.T) {
	for _, c := range []struct {
		e    entry
		data string
	}{
		{entry{kind: KindFence, epoch: 300}, "\x01\x02\xac\x02"},
		{entry{kind: KindEffects, epoch: 300, number: 2, effects: []byte("e")}, "\x01\x01\xac\x02\x02e"},
		{
			entry{kind: KindDecision, epoch: 300, number: 2, effects: []byte("own"), parts: []byte("parts")},
			"\x01\x03\xac\x02\x02\x03ownparts",
		},
		{entry{kind: KindPart, epoch: 300, number: 2, id: 5, effects: []byte("e")}, "\x01\x04\xac\x02\x02\x05e"},
	} {
		require.Equal(t, c.data, string(c.e.encode()))
	}
}

func TestEntryRefused(t *testing.T) {
	for _, e := range []entry{
		{kind: KindFence, epoch: 300},
		{kind: KindEffects, epoch: 300, number: 300},
		{kind: KindDecision, epoch: 300, number: 300, effects: bytes.Repeat([]byte("e"), 200)},
		{kind: KindPart, epoch: 300, number: 300, id: 300},
	} {
		data := e.encode()
		for n := range data {
			_, err := decodeEntry(data[:n])
			require.ErrorIs(t, err, errShortEntry, "kind %d, the first %d bytes", e.kind, n)
		}
	}
	for data, want := range map[string]string{
		"\x03\x01\x01\x01":                      "format 3, kind 1 is not known",
		"\x01\x00\x01\x01":                      "format 1, kind 0 is not known",
		"\x01\x05\x01\x01":                      "format 1, kind 5 is not known",
		"\x01\x02\x01x":                         "a fence with effects",
		"\x01\x01" + strings.Repeat("\xff", 11): "cut short",
		"\x01\x03\x01\x01\x04own":               "cut short",
	} {
		_, err := decodeEntry([]byte(data))
		require.ErrorContains(t, err, want, "%q", data)
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1})
	for _, kind := range []Kind{KindEffects, KindFence, KindDecision, KindPart} {
		e := entry{kind: kind, epoch: 300, number: 2, id: 3, effects: []byte("effects"), parts: []byte("parts")}
		if kind == KindFence {
			e.effects, e.parts = nil, nil
		}
		f.Add(e.encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEntry(data)
		if err != nil {
			return
		}
		again, err := decodeEntry(e.encode())
		require.NoError(t, err)
		sameEntry(t, e, again)
	})
}
