package group

import (
	"bytes"
	"math"
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
		"\x02\x01\x01\x01":                      "format 2, kind 1 is not known",
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
