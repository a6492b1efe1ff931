package mvcc_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

func TestSpan(t *testing.T) {
	for _, c := range []struct {
		key, end string
		inside   []string
		outside  []string
		empty    bool
	}{
		{"a", "", []string{"a"}, []string{"", "A", "a\x00", "aa", "b"}, false},
		{"a", "b", []string{"a", "a\x00", "aa", "a\xff\xff"}, []string{"", "`\xff", "b", "b\x00"}, false},
		{"a", "a\x00", []string{"a"}, []string{"a\x00", "aa"}, false},
		{"a", "\x00", []string{"a", "b", "\xff\xff\xff"}, []string{"", "A", "`"}, false},
		{"\x00", "\x00", []string{"\x00", "a", "\xff"}, []string{""}, false},
		{"a", "\x00\x00", nil, []string{"a", "\x00", "b"}, true},
		{"a", "a", nil, []string{"a", "", "b"}, true},
		{"b", "a", nil, []string{"a", "aa", "b"}, true},
		{"\xff", "\x00", []string{"\xff", "\xff\xff"}, []string{"\xfe\xff"}, false},
	} {
		s := mvcc.SpanOf([]byte(c.key), []byte(c.end))
		for _, k := range c.inside {
			require.True(t, s.Contains([]byte(k)), "[%q,%q) and %q", c.key, c.end, k)
		}
		for _, k := range c.outside {
			require.False(t, s.Contains([]byte(k)), "[%q,%q) and %q", c.key, c.end, k)
		}
		require.Equal(t, c.empty, s.Empty(), "[%q,%q)", c.key, c.end)
	}
}

// A span of one key does not share the key's memory, and so cannot change when
// the key is appended to.
func TestSpanOfOneKeyIsItsOwn(t *testing.T) {
	key := append(make([]byte, 0, 10), 'a')
	s := mvcc.SpanOf(key, nil)
	_ = append(key, 'x')
	require.True(t, s.Contains([]byte("a")))
	require.False(t, s.Contains([]byte("a\x00")))
}
