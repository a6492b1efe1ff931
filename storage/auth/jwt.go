package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// TokenConfig says which tokens there are.
type TokenConfig struct {
	// Spec is etcd's --auth-token: "simple"; or "jwt" with options behind it, each
	// with a comma before it: sign-method, pub-key, priv-key, ttl; or nothing.
	Spec string
	// SimpleTTL is for how long a simple token is good that nobody uses;
	// DefaultTokenTTL if it is not positive.
	SimpleTTL time.Duration
	// ReadFile reads the keys that Spec names.
	ReadFile func(name string) ([]byte, error)
	Clock    clock.Clock
}

// A Mint is the Tokens of the member with an id.
type Mint func(member uint64) Tokens

// NewMint returns what makes the tokens that c asks for.
func NewMint(c TokenConfig) (Mint, error) {
	kind, options, err := ParseTokenSpec(c.Spec)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "simple":
		return func(member uint64) Tokens { return newSimpleTokens(member, c.SimpleTTL, c.Clock) }, nil
	case "jwt":
		t, err := newJWTs(&c, options)
		return func(uint64) Tokens { return t }, err
	}
	return func(uint64) Tokens { return noTokens{} }, nil
}

// ParseTokenSpec takes a TokenConfig.Spec apart. Which options there are it does not
// know; as in etcd those that nobody knows are no error.
func ParseTokenSpec(spec string) (kind string, options map[string]string, err error) {
	kind, rest, more := strings.Cut(spec, ",")
	options = map[string]string{}
	for more {
		var pair string
		pair, rest, more = strings.Cut(rest, ",")
		name, value, ok := strings.Cut(pair, "=")
		if _, twice := options[name]; !ok || twice || strings.Contains(value, "=") {
			return "", nil, fmt.Errorf("%w: %q", errOptions, pair)
		}
		options[name] = value
	}
	switch kind {
	case "simple", "jwt", "":
		return kind, options, nil
	}
	return "", nil, fmt.Errorf("%w: there are no tokens of kind %q", errOptions, kind)
}

// jwts are JSON web tokens. They name the user and the revision, and are good until
// they expire, whatever happens to user and password; but after a change of users or
// roles those that name an older revision open no keys any more.
type jwts struct {
	method  jwt.SigningMethod
	private any // nil if tokens are made elsewhere
	public  any
	ttl     time.Duration
	clock   clock.Clock
	parser  *jwt.Parser
	seen    memory[seenJWT]
}

// seenJWT is a token that was good when it was seen.
type seenJWT struct {
	who Identity
	// expires is zero if it does not.
	expires time.Time
}

func newJWTs(c *TokenConfig, options map[string]string) (*jwts, error) {
	t := &jwts{ttl: DefaultTokenTTL, clock: c.Clock, method: jwt.GetSigningMethod(options["sign-method"])}
	var err error
	if ttl := options["ttl"]; ttl != "" {
		if t.ttl, err = time.ParseDuration(ttl); err != nil {
			return nil, fmt.Errorf("%w: ttl: %w", errOptions, err)
		}
	}
	var pem struct{ public, private []byte }
	for name, to := range map[string]*[]byte{"pub-key": &pem.public, "priv-key": &pem.private} {
		if file := options[name]; file != "" {
			if *to, err = c.ReadFile(file); err != nil {
				return nil, fmt.Errorf("%w: %s: %w", errOptions, name, err)
			}
		}
	}
	if t.method == nil {
		return nil, fmt.Errorf("%w: %w", errOptions, errMethod)
	}
	t.parser = jwt.NewParser(jwt.WithValidMethods([]string{t.method.Alg()}), jwt.WithTimeFunc(c.Clock.Now))
	switch t.method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		err = keys(t, pem.public, pem.private, jwt.ParseRSAPublicKeyFromPEM, jwt.ParseRSAPrivateKeyFromPEM)
	case *jwt.SigningMethodECDSA:
		err = keys(t, pem.public, pem.private, jwt.ParseECPublicKeyFromPEM, jwt.ParseECPrivateKeyFromPEM)
	case *jwt.SigningMethodEd25519:
		err = keys(t, pem.public, pem.private, parseEdPublic, parseEdPrivate)
	case *jwt.SigningMethodHMAC:
		if len(pem.private) == 0 {
			return nil, errMissingKey
		}
		t.private, t.public = pem.private, pem.private
	default:
		err = fmt.Errorf("auth: unsupported signing method: %T", t.method)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// publicKey and privateKey are what Go's keys of all kinds have.
type publicKey interface{ Equal(crypto.PublicKey) bool }

type privateKey interface{ Public() crypto.PublicKey }

// keys reads a pair of keys, of which one may be missing.
func keys[Public publicKey, Private privateKey](
	t *jwts, public, private []byte,
	parsePublic func([]byte) (Public, error), parsePrivate func([]byte) (Private, error),
) error {
	if len(private) > 0 {
		key, err := parsePrivate(private)
		if err != nil {
			return err
		}
		t.private, t.public = key, key.Public()
	}
	if len(public) > 0 {
		key, err := parsePublic(public)
		if err != nil {
			return err
		}
		if t.public != nil && !key.Equal(t.public) {
			return errKeyMismatch
		}
		t.public = key
	}
	if t.public == nil {
		return errMissingKey
	}
	return nil
}

func parseEdPublic(pem []byte) (ed25519.PublicKey, error) {
	key, err := jwt.ParseEdPublicKeyFromPEM(pem)
	if err != nil {
		return nil, err
	}
	return key.(ed25519.PublicKey), nil
}

func parseEdPrivate(pem []byte) (ed25519.PrivateKey, error) {
	key, err := jwt.ParseEdPrivateKeyFromPEM(pem)
	if err != nil {
		return nil, err
	}
	return key.(ed25519.PrivateKey), nil
}

var (
	_ publicKey  = (*rsa.PublicKey)(nil)
	_ publicKey  = (*ecdsa.PublicKey)(nil)
	_ publicKey  = ed25519.PublicKey(nil)
	_ privateKey = (*rsa.PrivateKey)(nil)
	_ privateKey = (*ecdsa.PrivateKey)(nil)
	_ privateKey = ed25519.PrivateKey(nil)
)

// Issue implements Tokens.
func (t *jwts) Issue(st *State, user string) (string, error) {
	if st.users[user] == nil {
		return "", ErrAuthFailed
	}
	if t.private == nil {
		return "", ErrVerifyOnly
	}
	return jwt.NewWithClaims(t.method, jwt.MapClaims{
		"username": user,
		"revision": st.revision,
		"exp":      t.clock.Now().Add(t.ttl).Unix(),
	}).SignedString(t.private)
}

// Verify implements Tokens.
func (t *jwts) Verify(_ *State, token string) (Identity, bool) {
	now := t.clock.Now()
	good := func(s seenJWT) bool { return s.expires.IsZero() || now.Before(s.expires) }
	if s, ok := t.seen.get(token); ok {
		if good(s) {
			return s.who, true
		}
		t.seen.forget(token)
		return Identity{}, false
	}
	var claims jwt.MapClaims
	_, err := t.parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return t.public, nil })
	if err != nil {
		return Identity{}, false
	}
	user, named := claims["username"].(string)
	revision, dated := claims["revision"].(float64)
	if !named || !dated {
		return Identity{}, false
	}
	s := seenJWT{who: Identity{User: user, Revision: uint64(revision)}}
	if exp, err := claims.GetExpirationTime(); err == nil && exp != nil {
		s.expires = exp.Time
	}
	t.seen.put(token, s, now, good)
	return s.who, true
}
