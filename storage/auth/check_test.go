package auth

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// identified is a user as of a state.
func identified(st *State, user string) Identity {
	return Identity{User: user, Revision: st.Revision()}
}

func TestCheckRange(t *testing.T) {
	tb := population(t)
	st := tb.do(
		t, permit("reader", ReadOnly, "c", "e"), permit("reader", ReadOnly, "e", "g"), permit("reader", ReadWrite, "f", "i"),
		permit("reader", WriteOnly, "m", ""), permit("reader", ReadOnly, "x", "\x00"), permit("reader", 9, "k", "l"), enable,
	)
	for _, c := range []struct {
		key, end    string
		read, write bool
	}{
		{"a", "", true, false},
		{"a", "a\x00", true, false},
		{"a\x00", "", false, false},
		{"a", "b", false, false},
		{"c", "", true, false},
		{"c", "i", true, false}, // three that meet or overlap
		{"c", "i\x00", false, false},
		{"c", "\x00", false, false},
		{"b", "d", false, false},
		{"f", "i", true, true},
		{"e", "i", true, false},
		{"h", "", true, true},
		{"i", "", false, false},
		{"k", "", false, false}, // a type that nobody knows
		{"m", "", false, true},
		{"x", "\x00", true, false},
		{"z", "zz", true, false},
		{"\x00", "\x00", false, false},
		{"d", "c", true, false}, // no key at all
		{"i", "c", false, false},
	} {
		t.Run(fmt.Sprintf("%q to %q", c.key, c.end), func(t *testing.T) {
			alice := identified(st, "alice")
			require.Equal(t, c.read, st.CheckRange(alice, []byte(c.key), []byte(c.end)) == nil)
			require.Equal(t, c.write, st.CheckDelete(alice, []byte(c.key), []byte(c.end)) == nil)
			if c.end == "" {
				require.Equal(t, c.write, st.CheckPut(alice, []byte(c.key)) == nil)
			}
			require.NoError(t, st.CheckDelete(identified(st, Root), []byte(c.key), []byte(c.end)))
			require.ErrorIs(t, st.CheckRange(identified(st, "bob"), []byte(c.key), []byte(c.end)), ErrPermissionDenied)
		})
	}
}

// TestSpans compares merged spans with a look at every key.
func TestSpans(t *testing.T) {
	const keys = 24
	key := func(i int) []byte { return []byte{byte(i + 1)} }
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		var s spans
		var in [keys + 1]bool // the last stands for all that come later
		for range r.IntN(6) {
			from := r.IntN(keys)
			to := from + 1 + r.IntN(keys-from)
			p := Permission{Key: key(from), End: key(to)}
			if r.IntN(5) == 0 {
				p.End, to = fromKeyOn, keys+1
			}
			s = append(s, spanOf(p))
			for i := from; i < to; i++ {
				in[i] = true
			}
		}
		s = s.merge()
		for i := 1; i < len(s); i++ {
			require.Negative(t, bytes.Compare(s[i-1].end, s[i].begin), "seed %d", seed)
		}
		for from := range keys {
			all := true
			for to := from + 1; to <= keys+1; to++ {
				all = all && in[to-1]
				end := fromKeyOn
				if to <= keys {
					end = key(to)
				}
				require.Equal(t, all, s.contain(key(from), end), "seed %d, %d to %d", seed, from, to)
			}
		}
	}
}

func TestCheckIdentity(t *testing.T) {
	tb := population(t)
	st := tb.do(t, enable)
	key := []byte("a")
	require.ErrorIs(t, st.CheckRange(Identity{}, key, nil), ErrUserEmpty)
	require.ErrorIs(t, st.CheckRange(identified(st, "mallory"), key, nil), ErrPermissionDenied)
	require.ErrorIs(t, st.CheckRange(identified(st, ""), key, nil), ErrPermissionDenied)
	before := identified(st, Root)
	st = tb.do(t, addRole("more"))
	require.ErrorIs(t, st.CheckPut(before, key), ErrAuthOldRevision)
	require.NoError(t, st.CheckAdmin(before), "administrators may be of any revision")

	require.ErrorIs(t, st.CheckAdmin(Identity{}), ErrUserEmpty)
	require.ErrorIs(t, st.CheckAdmin(identified(st, "mallory")), ErrUserNotFound)
	require.ErrorIs(t, st.CheckAdmin(identified(st, "alice")), ErrPermissionDenied)
	require.NoError(t, st.CheckUser(identified(st, "alice"), "alice"))
	require.ErrorIs(t, st.CheckUser(identified(st, "alice"), "bob"), ErrPermissionDenied)
	require.NoError(t, st.CheckRole(identified(st, "alice"), "reader"))
	require.ErrorIs(t, st.CheckRole(identified(st, "alice"), "more"), ErrPermissionDenied)
	require.ErrorIs(t, st.CheckRole(identified(st, "bob"), "reader"), ErrPermissionDenied)

	hash, err := st.Credentials("alice")
	require.NoError(t, err)
	require.Equal(t, "hash of alice", string(hash))
	_, err = st.Credentials("mallory")
	require.ErrorIs(t, err, ErrAuthFailed)
	_, err = st.Credentials("cert")
	require.ErrorIs(t, err, ErrNoPasswordUser)

	st = tb.do(t, disable)
	require.NoError(t, st.CheckPut(Identity{}, key))
	require.NoError(t, st.CheckAdmin(Identity{}))
	_, err = st.Credentials("alice")
	require.ErrorIs(t, err, ErrAuthNotEnabled)
}
