package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// Tokens makes the tokens that users show with their requests, and says whose a
// token is.
type Tokens interface {
	// Issue makes a token for a user who has shown the password.
	Issue(st *State, user string) (string, error)
	// Verify says who shows a token. It is called for every request.
	Verify(st *State, token string) (Identity, bool)
}

// DefaultTokenTTL is for how long a token is good that nobody uses.
const DefaultTokenTTL = 5 * time.Minute

// maxTokens bounds the tokens that are remembered. One that is not is verified
// again at each use.
const maxTokens = 1 << 16

// sweepInterval is the least time between two looks for tokens that have ended.
const sweepInterval = 10 * time.Second

// noTokens gives out none, as etcd does for an empty --auth-token.
type noTokens struct{}

func (noTokens) Issue(*State, string) (string, error)   { return "", ErrAuthFailed }
func (noTokens) Verify(*State, string) (Identity, bool) { return Identity{}, false }

// simpleTokens are signed with a secret that all members have in their table while
// authentication is on: a login writes nothing, and every member knows a token of
// any other.
//
// A token is good for a time since it was last used, as in etcd, but each member
// knows only of the uses that it has seen: where there were none, the time counts
// from when the token was made. A client that goes to another member with an old
// token is told that it is invalid, and logs in again. As in etcd a token ends
// when the member that made it restarts, as far as that member is concerned.
type simpleTokens struct {
	ttl   time.Duration
	clock clock.Clock
	// member made a token, in this life of its process if life is the token's.
	member, life uint64
	serial       atomic.Uint64
	seen         memory[*seenToken]
}

// seenToken is a token of which the signature was right.
type seenToken struct {
	secret, user string
	since        uint64
	// used is when it was used last, in nanoseconds since 1970.
	used atomic.Int64
}

// A token, before it is written in base64. It is the protocol between members:
//
//	version 1  uint8
//	member     uint64   that made it
//	life       uint64   of that member's process
//	serial     uint64   in that life
//	issued     int64    seconds since 1970
//	since      uint64   User.Since
//	user       bytes
//	signature  32 bytes HMAC-SHA256 of all that stands before
const (
	tokenVersion   = 1
	tokenUser      = 1 + 5*8
	tokenSignature = sha256.Size
)

func newSimpleTokens(member uint64, ttl time.Duration, c clock.Clock) *simpleTokens {
	if ttl <= 0 {
		ttl = DefaultTokenTTL
	}
	var life [8]byte
	_, _ = rand.Read(life[:]) // never fails
	return &simpleTokens{ttl: ttl, clock: c, member: member, life: binary.BigEndian.Uint64(life[:])}
}

// Issue implements Tokens.
func (t *simpleTokens) Issue(st *State, user string) (string, error) {
	a := st.users[user]
	if a == nil || st.secret == "" {
		return "", ErrAuthFailed
	}
	b := make([]byte, 0, tokenUser+len(user)+tokenSignature)
	b = append(b, tokenVersion)
	for _, n := range [...]uint64{t.member, t.life, t.serial.Add(1), uint64(t.clock.Now().Unix()), a.Since} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, user...)
	return base64.RawURLEncoding.EncodeToString(append(b, sign(st.secret, b)...)), nil
}

func sign(secret string, b []byte) []byte {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(b)
	return mac.Sum(nil)
}

// Verify implements Tokens.
func (t *simpleTokens) Verify(st *State, token string) (Identity, bool) {
	now := t.clock.Now()
	s, known := t.seen.get(token)
	if !known {
		if s = t.parse(st.secret, token); s == nil {
			return Identity{}, false
		}
	}
	a := st.users[s.user]
	if s.secret != st.secret || a == nil || a.Since != s.since || now.UnixNano()-s.used.Load() > int64(t.ttl) {
		t.seen.forget(token)
		return Identity{}, false
	}
	s.used.Store(now.UnixNano())
	if !known {
		t.seen.put(token, s, now, func(s *seenToken) bool { return now.UnixNano()-s.used.Load() <= int64(t.ttl) })
	}
	return Identity{User: s.user, Revision: st.revision}, true
}

// parse reads a token that was not seen before, nil if the signature is wrong.
func (t *simpleTokens) parse(secret, token string) *seenToken {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) < tokenUser+tokenSignature || b[0] != tokenVersion || secret == "" {
		return nil
	}
	signed, signature := b[:len(b)-tokenSignature], b[len(b)-tokenSignature:]
	if !hmac.Equal(signature, sign(secret, signed)) {
		return nil
	}
	field := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	if field(0) == t.member && field(1) != t.life {
		return nil
	}
	s := &seenToken{secret: secret, user: string(signed[tokenUser:]), since: field(4)}
	s.used.Store(time.Unix(int64(field(3)), 0).UnixNano())
	return s
}

// memory remembers tokens.
type memory[T any] struct {
	mu     sync.RWMutex // guards the fields below; nothing is taken after it
	tokens map[string]T
	swept  time.Time
}

func (m *memory[T]) get(token string) (T, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, ok := m.tokens[token]
	return v, ok
}

func (m *memory[T]) forget(token string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.tokens, token)
}

// put remembers a token. Those that are not good any more are forgotten then, unless
// that was done a moment ago.
func (m *memory[T]) put(token string, v T, now time.Time, good func(T) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokens == nil {
		m.tokens = map[string]T{}
	}
	if now.Sub(m.swept) >= sweepInterval {
		m.swept = now
		for other, v := range m.tokens {
			if !good(v) {
				delete(m.tokens, other)
			}
		}
	}
	if len(m.tokens) < maxTokens {
		m.tokens[token] = v
	}
}
