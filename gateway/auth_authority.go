package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// authTable is the table of records that has users and roles.
const authTable = auth.Table

// jsonHeader is in the metadata of a call that came as JSON. As in etcd nobody is
// recognised by the certificate of who has passed it on.
const jsonHeader = "grpcgateway-accept"

// authority knows who asks and what they may. Requests are checked here with the
// users and roles that are applied at this member; and so that a permission does not
// outlive its revocation where this member lags, what they ask of the store rests on
// the version of the table that they were checked with (member.Basis), and is checked
// again when there is a newer one.
//
// What remains: a client whose write has arrived and whose permission is revoked
// before it is evaluated; and watches, which like etcd's keep what they were created
// with. A table that was never changed as far as this member knows is one to rest on
// too: it may lag, and so not know that authentication is on.
type authority struct {
	store  Store
	tokens auth.Tokens
	// commonNames says that clients may be recognised by their certificates.
	commonNames bool
	cost        int
	log         *slog.Logger

	// state is nil when the table was changed since it was read.
	state   atomic.Pointer[auth.State]
	changes atomic.Uint64
	// mu is held while the table is read; the store's locks are taken after it.
	mu sync.Mutex
}

func newAuthority(cfg *Config, store Store) *authority {
	mint := cfg.Tokens
	if mint == nil {
		// The specification is right.
		mint, _ = auth.NewMint(auth.TokenConfig{Spec: "simple", Clock: cfg.Clock})
	}
	a := &authority{
		store: store, tokens: mint(store.Status().MemberID), commonNames: cfg.CommonNames,
		cost: bcryptCost(cfg.BcryptCost, cfg.Logger), log: cfg.Logger,
	}
	_ = cfg.Registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "etcd_debugging", Subsystem: "auth", Name: "revision",
		Help: "The current revision of auth store.",
	}, func() float64 { return float64(a.current().Revision()) }))
	return a
}

// forget has users and roles read anew: they were changed.
func (a *authority) forget() {
	a.changes.Add(1)
	a.state.Store(nil)
}

// current returns users and roles as they are applied here.
func (a *authority) current() *auth.State {
	if st := a.state.Load(); st != nil {
		return st
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		before := a.changes.Load()
		version, rows, err := a.store.Records(authTable)
		st := a.read(version, rows, err)
		if err == nil {
			a.state.Store(st)
		}
		if a.changes.Load() == before {
			return st
		}
		a.state.Store(nil) // what came between may not have been read
	}
}

// now is current with everything that was acknowledged before the call.
func (a *authority) now(ctx context.Context) (*auth.State, error) {
	version, rows, err := a.store.RecordsNow(ctx, authTable)
	if err != nil {
		return nil, err
	}
	if st := a.state.Load(); st != nil && st.Version() == version {
		return st, nil
	}
	return a.read(version, rows, nil), nil
}

// read makes a State of what the store has. If that can not be read, nobody may do
// anything.
func (a *authority) read(version int64, rows map[string][]byte, err error) *auth.State {
	st, bad := auth.Load(version, rows)
	if err = errors.Join(err, bad); err != nil {
		a.log.Error("users and roles can not be read; requests are refused", slog.Any("err", err))
		return auth.Closed(version)
	}
	return st
}

// asker is who asks, and the state that the answer depends on.
type asker struct {
	*auth.State
	who auth.Identity
}

// asker says who asks. A token that is not good here may be one of a user, or of a
// password, that has not come here yet.
func (a *authority) asker(ctx context.Context) (asker, error) {
	by, err := a.as(ctx, a.current())
	if err == nil {
		return by, nil
	}
	st, failed := a.now(ctx)
	if failed != nil || st.Version() == by.Version() {
		return by, err
	}
	return a.as(ctx, st)
}

// as says who asks, by a state. Nobody is asked for while authentication is off.
func (a *authority) as(ctx context.Context, st *auth.State) (asker, error) {
	by := asker{State: st}
	if !st.Enabled() {
		return by, nil
	}
	tokens := metadata.ValueFromIncomingContext(ctx, rpctypes.TokenFieldNameGRPC)
	if len(tokens) == 0 {
		tokens = metadata.ValueFromIncomingContext(ctx, rpctypes.TokenFieldNameSwagger)
	}
	if len(tokens) > 0 {
		var ok bool
		by.who, ok = a.tokens.Verify(st, strings.TrimPrefix(tokens[0], "Bearer "))
		if !ok {
			return by, auth.ErrInvalidAuthToken
		}
		return by, nil
	}
	if name, ok := a.commonName(ctx); ok {
		by.who = auth.Identity{User: name, Revision: st.Revision()}
	}
	return by, nil
}

// commonName returns that of the certificate that the client came with.
func (a *authority) commonName(ctx context.Context) (string, bool) {
	if !a.commonNames {
		return "", false
	}
	p, ok := peer.FromContext(ctx)
	if !ok || len(metadata.ValueFromIncomingContext(ctx, jsonHeader)) > 0 {
		return "", false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", false
	}
	for _, chain := range info.State.VerifiedChains {
		if len(chain) > 0 {
			return chain[0].Subject.CommonName, true
		}
	}
	return "", false
}

// A rule says whether somebody may do something.
type rule func(by asker) error

// somebody lets everybody pass who is known.
func somebody(by asker) error {
	if by.Enabled() && by.who.Revision == 0 {
		return auth.ErrUserEmpty
	}
	return nil
}

// admin lets administrators pass.
func admin(by asker) error { return by.CheckAdmin(by.who) }

// permitted asks a rule by what is applied here. It is for requests that need no
// more, because they show only what this member has, or because as in etcd a change
// of users does not reach those that are under way.
func (s *Server) permitted(ctx context.Context, may rule) error {
	by, err := s.auth.asker(ctx)
	if err == nil {
		err = may(by)
	}
	return toGRPC(err)
}

// basis is what a request rests on; nothing if it has no version.
func (by asker) basis() member.Basis { return member.Basis{Table: authTable, Version: by.Version()} }

// again is by after its basis has fallen.
func (a *authority) again(ctx context.Context) (asker, error) {
	st, err := a.now(ctx)
	if err != nil {
		return asker{}, err
	}
	return a.as(ctx, st)
}

// doAs is doOn for a request that must be permitted.
func (s *Server) doAs(ctx context.Context, by asker, op evaluate.Op, may rule) (evaluate.Result, error) {
	for fresh := false; ; fresh = true {
		if err := may(by); err != nil && !fresh {
			// What permits it may not be applied here yet.
			if by, err = s.auth.again(ctx); err != nil {
				return evaluate.Result{}, toGRPC(err)
			}
			continue
		} else if err != nil {
			return evaluate.Result{}, toGRPC(err)
		}
		b := by.basis()
		res, err := s.doOn(ctx, op, b)
		if !errors.Is(err, evaluate.ErrRecordsChanged) {
			return res, err
		}
		if by, err = s.auth.again(ctx); err != nil {
			return evaluate.Result{}, toGRPC(err)
		}
	}
}

// readAs is the store's Read for a request that must be permitted.
func (s *Server) readAs(ctx context.Context, by asker, op evaluate.Op, serializable bool, may rule) (evaluate.Result, error) {
	for fresh := serializable; ; fresh = true {
		err := may(by)
		if err == nil && by.who.Revision > by.Revision() {
			err = auth.ErrAuthOldRevision // a token of another cluster; as in etcd it may write
		}
		if err != nil && !fresh {
			if by, err = s.auth.again(ctx); err == nil {
				continue
			}
		}
		if err != nil {
			return evaluate.Result{}, toGRPC(err)
		}
		var res evaluate.Result
		if b := by.basis(); b.Version == 0 {
			// What the read has waited for may be the first change.
			res, err = s.store.Read(ctx, op, serializable)
			if err == nil && s.auth.current().Version() > 0 {
				err = evaluate.ErrRecordsChanged
			}
		} else {
			res, err = s.store.ReadOn(ctx, op, serializable, b)
		}
		if !errors.Is(err, evaluate.ErrRecordsChanged) {
			return res, toGRPC(err)
		}
		if by, err = s.auth.again(ctx); err != nil {
			return evaluate.Result{}, toGRPC(err)
		}
	}
}

// changeAuth makes a change of users and roles that an administrator asks for. change
// says what to write.
func (s *Server) changeAuth(ctx context.Context, change func(st *auth.State) ([]auth.Write, error)) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	for {
		by, err := s.auth.again(ctx)
		if err == nil {
			err = admin(by)
		}
		if err == nil {
			err = s.mayChange(ctx) // the users are the source's while another cluster is mirrored
		}
		if err != nil {
			return toGRPC(err)
		}
		writes, err := change(by.State)
		if err != nil || len(writes) == 0 {
			return toGRPC(err)
		}
		_, err = s.store.WriteRecords(ctx, authTable, by.Version(), records(writes))
		if !errors.Is(err, evaluate.ErrRecordsChanged) {
			return toGRPC(err)
		}
	}
}

func records(writes []auth.Write) []mvcc.RecordWrite {
	rows := make([]mvcc.RecordWrite, len(writes))
	for i, w := range writes {
		rows[i] = mvcc.RecordWrite(w)
	}
	return rows
}

// newSecret returns what nobody can guess.
func newSecret() []byte {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	return secret
}
