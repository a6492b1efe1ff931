package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// mint makes the tokens of a member as the flag says.
func mint(t *testing.T, spec string, c clock.Clock, files map[string][]byte) Mint {
	t.Helper()
	m, err := NewMint(TokenConfig{Spec: spec, SimpleTTL: time.Minute, Clock: c, ReadFile: reads(files)})
	require.NoError(t, err)
	return m
}

func reads(files map[string][]byte) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		if content, ok := files[name]; ok {
			return content, nil
		}
		return nil, os.ErrNotExist
	}
}

func issued(t *testing.T, tokens Tokens, st *State, user string) string {
	t.Helper()
	token, err := tokens.Issue(st, user)
	require.NoError(t, err)
	return token
}

func refuses(t *testing.T, tokens Tokens, st *State, token string) {
	t.Helper()
	_, ok := tokens.Verify(st, token)
	require.False(t, ok)
}

func knows(t *testing.T, tokens Tokens, st *State, token, user string) {
	t.Helper()
	who, ok := tokens.Verify(st, token)
	require.True(t, ok)
	require.Equal(t, user, who.User)
}

func TestSimpleTokens(t *testing.T) {
	clk := clock.NewManual(begin)
	of := mint(t, "simple", clk, nil)
	first, second := of(1), of(2)
	tb := population(t)
	st := tb.do(t, enable)
	alice := issued(t, first, st, "alice")
	require.NotEqual(t, alice, issued(t, first, st, "alice"))
	for _, tokens := range []Tokens{first, second} { // no member needs to be told
		knows(t, tokens, st, alice, "alice")
		knows(t, tokens, st, alice, "alice")
	}
	who, _ := first.Verify(st, alice)
	require.Equal(t, st.Revision(), who.Revision)
	_, err := first.Issue(st, "mallory")
	require.ErrorIs(t, err, ErrAuthFailed)

	// A member that was restarted does not know its own any more.
	refuses(t, of(1), st, alice)
	knows(t, of(3), st, alice, "alice")

	b, err := base64.RawURLEncoding.DecodeString(alice)
	require.NoError(t, err)
	for i := range b { // nobody can change one
		b[i] ^= 1
		refuses(t, first, st, base64.RawURLEncoding.EncodeToString(b))
		b[i] ^= 1
	}
	for _, bad := range []string{"", "x", "made.7", alice[:len(alice)-1], alice[:40]} {
		refuses(t, first, st, bad)
	}

	// A change elsewhere leaves the token good, and makes who shows it as new.
	st = tb.do(t, grantRole("bob", "reader"))
	who, ok := first.Verify(st, alice)
	require.True(t, ok)
	require.Equal(t, st.Revision(), who.Revision)
}

func TestSimpleTokensEnd(t *testing.T) {
	for name, c := range map[string][]change{
		"the password": {password("alice", "other")},
		"the user":     {deleteUser("alice")},
		"its return":   {deleteUser("alice"), addUser("alice")},
		"all":          {disable},
		"all and more": {disable, func(st *State) ([]Write, error) { return st.Enable([]byte("another secret")) }},
	} {
		t.Run(name, func(t *testing.T) {
			tb := population(t)
			of := mint(t, "simple", clock.NewManual(begin), nil)
			tokens, st := of(1), tb.do(t, enable)
			alice, bob := issued(t, tokens, st, "alice"), issued(t, tokens, st, "bob")
			knows(t, tokens, st, alice, "alice")
			st = tb.do(t, c...)
			refuses(t, tokens, st, alice)
			refuses(t, of(2), st, alice) // one that has not seen it
			if st.Enabled() && st.secret == "secret" {
				knows(t, tokens, st, bob, "bob")
			}
		})
	}
}

func TestSimpleTokensAge(t *testing.T) {
	clk := clock.NewManual(begin)
	of := mint(t, "simple", clk, nil)
	used, other := of(1), of(2)
	st := population(t).do(t, enable)
	alice := issued(t, used, st, "alice")
	for range 5 { // each use gives it a minute
		clk.Advance(50 * time.Second)
		knows(t, used, st, alice, "alice")
	}
	refuses(t, other, st, alice) // which has seen none of the uses
	clk.Advance(time.Minute)
	knows(t, used, st, alice, "alice")
	clk.Advance(time.Minute + time.Second)
	refuses(t, used, st, alice)
	refuses(t, used, st, alice)
}

// TestMemory forgets what has ended, and remembers no more than it may.
func TestMemory(t *testing.T) {
	var m memory[int]
	good := func(n int) bool { return n > 0 }
	m.put("old", 0, begin, good)
	m.put("new", 1, begin.Add(sweepInterval), good)
	_, ok := m.get("old")
	require.False(t, ok)
	v, ok := m.get("new")
	require.True(t, ok)
	require.Equal(t, 1, v)
	for i := range maxTokens + 10 {
		m.put(strconv.Itoa(i), 1, begin, good)
	}
	require.Len(t, m.tokens, maxTokens)
}

func TestNoTokens(t *testing.T) {
	tokens, st := mint(t, "", clock.Real{}, nil)(1), population(t).do(t, enable)
	_, err := tokens.Issue(st, "alice")
	require.ErrorIs(t, err, ErrAuthFailed)
	refuses(t, tokens, st, "x")
}

func TestParseTokenSpec(t *testing.T) {
	kind, options, err := ParseTokenSpec("jwt,pub-key=a,priv-key=b,sign-method=RS256,ttl=10m,unknown=")
	require.NoError(t, err)
	require.Equal(t, "jwt", kind)
	require.Equal(t, map[string]string{"pub-key": "a", "priv-key": "b", "sign-method": "RS256", "ttl": "10m", "unknown": ""}, options)
	for _, bad := range []string{"token", "jwt,", "jwt,ttl", "jwt,ttl=1=2", "jwt,ttl=1s,ttl=2s", "simple,x"} {
		_, _, err := ParseTokenSpec(bad)
		require.ErrorIs(t, err, errOptions, bad)
	}
}

// keyFiles makes a pair of keys of every kind.
func keyFiles(t *testing.T) map[string][]byte {
	t.Helper()
	files := map[string][]byte{"secret": []byte("nobody knows"), "none": {}, "bad": []byte("no key")}
	add := func(name string, private, public any) {
		der, err := x509.MarshalPKCS8PrivateKey(private)
		require.NoError(t, err)
		files[name+".key"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		der, err = x509.MarshalPKIXPublicKey(public)
		require.NoError(t, err)
		files[name+".pub"] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	add("rsa", r, r.Public())
	for _, name := range []string{"ec", "ec2"} {
		e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		add(name, e, e.Public())
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	add("ed", private, public)
	return files
}

func TestJWTs(t *testing.T) {
	files := keyFiles(t)
	st := population(t).do(t, enable)
	for method, options := range map[string]struct{ private, public string }{
		"RS256": {"rsa.key", "rsa.pub"},
		"PS384": {"rsa.key", "rsa.pub"},
		"ES256": {"ec.key", "ec.pub"},
		"EdDSA": {"ed.key", "ed.pub"},
		"HS512": {"secret", ""},
	} {
		t.Run(method, func(t *testing.T) {
			clk := clock.NewManual(begin)
			signer := mint(t, "jwt,ttl=10m,sign-method="+method+",priv-key="+options.private, clk, files)(1)
			alice := issued(t, signer, st, "alice")
			verifiers := []Tokens{signer}
			if options.public != "" {
				both := "jwt,sign-method=" + method + ",pub-key=" + options.public + ",priv-key=" + options.private
				only := mint(t, "jwt,sign-method="+method+",pub-key="+options.public, clk, files)(2)
				_, err := only.Issue(st, "alice")
				require.ErrorIs(t, err, ErrVerifyOnly)
				verifiers = append(verifiers, mint(t, both, clk, files)(3), only)
			}
			after := population(t).do(t, enable, addRole("more"))
			for _, v := range verifiers {
				for range 2 { // the second time from memory
					who, ok := v.Verify(after, alice)
					require.True(t, ok)
					require.Equal(t, identified(st, "alice"), who, "it is as old as it is")
				}
				refuses(t, v, st, alice[:len(alice)-4]+"AAAA")
			}
			clk.Advance(10 * time.Minute)
			for _, v := range verifiers {
				refuses(t, v, st, alice)
				refuses(t, v, st, alice)
			}
		})
	}
}

func TestNewMintRefuses(t *testing.T) {
	files := keyFiles(t)
	for spec, want := range map[string]error{
		"jwt":                                                   errMethod,
		"jwt,sign-method=none":                                  nil, // with a text of its own
		"jwt,sign-method=X":                                     errMethod,
		"jwt,sign-method=HS256":                                 errMissingKey,
		"jwt,sign-method=HS256,pub-key=ec.pub":                  errMissingKey,
		"jwt,sign-method=HS256,priv-key=none":                   errMissingKey,
		"jwt,sign-method=ES256":                                 errMissingKey,
		"jwt,sign-method=ES256,pub-key=missing":                 os.ErrNotExist,
		"jwt,sign-method=ES256,pub-key=bad":                     nil,
		"jwt,sign-method=RS256,pub-key=ec.pub":                  nil,
		"jwt,sign-method=EdDSA,priv-key=ec.key":                 nil,
		"jwt,sign-method=ES256,ttl=soon":                        errOptions,
		"jwt,sign-method=ES256,pub-key=ec2.pub,priv-key=ec.key": errKeyMismatch,
		"jots": errOptions,
	} {
		t.Run(spec, func(t *testing.T) {
			_, err := NewMint(TokenConfig{Spec: spec, Clock: clock.Real{}, ReadFile: reads(files)})
			require.Error(t, err)
			if want != nil {
				require.ErrorIs(t, err, want)
			}
		})
	}
}
