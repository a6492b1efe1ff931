package clients

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/ordering"
	"golang.org/x/sync/errgroup"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
	"github.com/pebbledash/pebbledash/gateway/electionpb"
	"github.com/pebbledash/pebbledash/gateway/lockpb"
	"github.com/pebbledash/pebbledash/pkg/clock"
)

const (
	// enough is how many rounds each client does between two acts of the play.
	enough = 5
	// attempt bounds one try of something that is tried again; again is how long
	// there is between two.
	attempt = 5 * time.Second
	again   = 10 * time.Millisecond
)

// play is a cluster whose leader is killed and comes back, twice, while clients do
// what they do. Each goes round and round; the next act begins when all have done
// enough rounds since the last.
type play struct {
	members   []*server.Server
	endpoints []string
	rounds    chan string
	over      chan struct{}
}

// A part is a client: it goes on until round says no, and returns what it finds
// wrong.
type part func(ctx context.Context, p *play, c *clientv3.Client, round func() bool) error

var parts = map[string]part{
	"mutex":            mutexPart,
	"election":         electionPart,
	"stm":              stmPart,
	"mirror":           mirrorPart,
	"naming":           namingPart,
	"leasing":          leasingPart,
	"ordering":         orderingPart,
	"lock service":     lockServicePart,
	"election service": electionServicePart,
}

func TestFailover(t *testing.T) {
	p := &play{
		members: server.RunCluster(t, server.Config{Binary: target.Path}, 3),
		rounds:  make(chan string), over: make(chan struct{}),
	}
	for _, m := range p.members {
		p.endpoints = append(p.endpoints, m.Endpoint())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	clients, ctx := errgroup.WithContext(ctx)
	for name, do := range parts {
		c := dial(t, p.endpoints...)
		clients.Go(func() error {
			if err := do(ctx, p, c, func() bool { return p.round(ctx, name) }); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	err := p.direct(ctx, dial(t, p.endpoints...))
	close(p.over)
	// The clients know better what was wrong.
	require.NoError(t, clients.Wait())
	require.NoError(t, err)
}

// round tells of a round, and says whether there shall be another.
func (p *play) round(ctx context.Context, name string) bool {
	select {
	case p.rounds <- name:
		return true
	case <-p.over:
	case <-ctx.Done():
	}
	return false
}

func (p *play) direct(ctx context.Context, c *clientv3.Client) error {
	var gone *server.Server
	kill := func() (err error) {
		if gone, err = p.leader(ctx, c); err == nil {
			err = gone.Kill()
		}
		return err
	}
	restart := func() error { return gone.Restart(ctx) }
	for _, act := range []func() error{kill, restart, kill, restart} {
		if err := p.until(ctx, nil); err != nil {
			return err
		}
		acted := make(chan error, 1)
		go func() { acted <- act() }()
		if err := p.until(ctx, acted); err != nil {
			return err
		}
	}
	return p.until(ctx, nil)
}

// until takes rounds until acted, or, if that is nil, until there were enough of
// everyone.
func (p *play) until(ctx context.Context, acted <-chan error) error {
	counts := map[string]int{}
	for done := 0; acted != nil || done < len(parts); {
		select {
		case name := <-p.rounds:
			if counts[name]++; counts[name] == enough {
				done++
			}
		case err := <-acted:
			return err
		case <-ctx.Done():
			return fmt.Errorf("rounds of %v: %w", counts, context.Cause(ctx))
		}
	}
	return nil
}

func (p *play) leader(ctx context.Context, c *clientv3.Client) (*server.Server, error) {
	var found *server.Server
	err := persist(ctx, func(ctx context.Context) error {
		for i, e := range p.endpoints {
			if s, err := c.Status(ctx, e); err == nil && s.Leader == s.Header.MemberId {
				found = p.members[i]
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	return found, err
}

// persist tries something until it succeeds.
func persist(ctx context.Context, do func(context.Context) error) error {
	ticker := clock.Real{}.NewTicker(again)
	defer ticker.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, attempt)
		err := do(bounded)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return fmt.Errorf("%w; at last: %w", context.Cause(ctx), err)
		}
	}
}

// patient is a session that outlives the play.
func patient(ctx context.Context, c *clientv3.Client) (s *concurrency.Session, err error) {
	err = persist(ctx, func(context.Context) (err error) {
		s, err = concurrency.NewSession(c, concurrency.WithTTL(300))
		return err
	})
	return s, err
}

// mutexPart has several owners of a lock change what only it guards.
func mutexPart(ctx context.Context, _ *play, c *clientv3.Client, round func() bool) error {
	var inside atomic.Int32
	var owners errgroup.Group
	for range 3 {
		s, err := patient(ctx, c)
		if err != nil {
			return err
		}
		owners.Go(func() error {
			mu := concurrency.NewMutex(s, "/mutex")
			for {
				if err := persist(ctx, mu.Lock); err != nil {
					return err
				}
				if n := inside.Add(1); n != 1 {
					return fmt.Errorf("%d own the lock", n)
				}
				more := round()
				inside.Add(-1)
				if err := persist(ctx, mu.Unlock); err != nil || !more {
					return err
				}
			}
		})
	}
	return owners.Wait()
}

// electionPart has candidates take turns; each leads until it resigns.
func electionPart(ctx context.Context, _ *play, c *clientv3.Client, round func() bool) error {
	var leading atomic.Int32
	var candidates errgroup.Group
	for i := range 3 {
		s, err := patient(ctx, c)
		if err != nil {
			return err
		}
		candidates.Go(func() error {
			for {
				// One that has resigned is not told that it leads again.
				e := concurrency.NewElection(s, "/election")
				if err := persist(ctx, func(ctx context.Context) error { return e.Campaign(ctx, strconv.Itoa(i)) }); err != nil {
					return err
				}
				if n := leading.Add(1); n != 1 {
					return fmt.Errorf("%d lead", n)
				}
				err := persist(ctx, func(ctx context.Context) error {
					r, err := e.Leader(ctx)
					if err == nil && string(r.Kvs[0].Key) != e.Key() {
						return fmt.Errorf("%s leads, and not %s", r.Kvs[0].Key, e.Key())
					}
					return err
				})
				if err != nil {
					return err
				}
				more := round()
				leading.Add(-1)
				key := e.Key()
				// What comes of resigning is not always told.
				err = persist(ctx, func(ctx context.Context) error {
					_, err := c.Delete(ctx, key)
					return err
				})
				if err != nil || !more {
					return err
				}
			}
		})
	}
	return candidates.Wait()
}

// stmPart moves money between accounts, at every level that keeps it from being
// lost, and counts it.
func stmPart(ctx context.Context, _ *play, c *clientv3.Client, round func() bool) error {
	const accounts, each = 5, 100
	account := func(i int) string { return fmt.Sprintf("/account/%d", i%accounts) }
	for i := range accounts {
		if err := persist(ctx, func(ctx context.Context) error {
			_, err := c.Put(ctx, account(i), strconv.Itoa(each))
			return err
		}); err != nil {
			return err
		}
	}
	var tellers errgroup.Group
	for i, level := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads} {
		tellers.Go(func() error {
			for n := 1; round(); n++ {
				from, to := account(i*n), account(i*n+n%(accounts-1)+1)
				if err := persist(ctx, func(ctx context.Context) error {
					_, err := concurrency.NewSTM(c, func(stm concurrency.STM) error {
						have, err := strconv.Atoi(stm.Get(from))
						if err != nil {
							return err
						}
						has, err := strconv.Atoi(stm.Get(to))
						stm.Put(from, strconv.Itoa(have-1))
						stm.Put(to, strconv.Itoa(has+1))
						return err
					}, concurrency.WithIsolation(level), concurrency.WithAbortContext(ctx))
					return err
				}); err != nil {
					return err
				}
				var sum int
				if err := persist(ctx, func(ctx context.Context) error {
					sum = 0
					r, err := c.Get(ctx, "/account/", clientv3.WithPrefix())
					if err != nil {
						return err
					}
					for _, kv := range r.Kvs {
						n, _ := strconv.Atoi(string(kv.Value))
						sum += n
					}
					return nil
				}); err != nil {
					return err
				}
				if sum != accounts*each {
					return fmt.Errorf("the accounts have %d together, and not %d", sum, accounts*each)
				}
			}
			return nil
		})
	}
	return tellers.Wait()
}

// mirrorPart writes, and compares a copy that follows with what there is at the end.
func mirrorPart(ctx context.Context, p *play, c *clientv3.Client, round func() bool) error {
	writer, err := clientv3.New(clientv3.Config{Endpoints: p.endpoints, DialTimeout: patience})
	if err != nil {
		return err
	}
	defer writer.Close()
	write := func(key, value string) error {
		return persist(ctx, func(ctx context.Context) error {
			_, err := writer.Put(ctx, key, value)
			return err
		})
	}
	for i := range 10 {
		if err := write("/mirror/"+key(i), "base"); err != nil {
			return err
		}
	}
	copied := map[string]string{}
	syncer := mirror.NewSyncer(c, "/mirror/", 0)
	responses, errs := syncer.SyncBase(ctx)
	for r := range responses {
		for _, kv := range r.Kvs {
			copied[string(kv.Key)] = string(kv.Value)
		}
	}
	if err := <-errs; err != nil {
		return err
	}
	following, stop := context.WithCancel(ctx)
	defer stop()
	updates := syncer.SyncUpdates(following)
	for n := 1; round(); n++ {
		if err := write("/mirror/"+key(n%20), strconv.Itoa(n)); err != nil {
			return err
		}
		if n%3 == 0 {
			if err := persist(ctx, func(ctx context.Context) error {
				_, err := writer.Delete(ctx, "/mirror/"+key(n%7))
				return err
			}); err != nil {
				return err
			}
		}
	}
	var all *clientv3.GetResponse
	if err := persist(ctx, func(ctx context.Context) (err error) {
		// The copy is there when it has seen this.
		if _, err = writer.Put(ctx, "/mirror/end", ""); err == nil {
			all, err = writer.Get(ctx, "/mirror/", clientv3.WithPrefix())
		}
		return err
	}); err != nil {
		return err
	}
	for r := range updates {
		if err := r.Err(); err != nil {
			return err
		}
		apply(copied, r.Events)
		if n := len(r.Events); n > 0 && r.Events[n-1].Kv.ModRevision >= modified(all) {
			break
		}
	}
	if len(copied) != len(all.Kvs) {
		return fmt.Errorf("the copy has %d keys, and not %d", len(copied), len(all.Kvs))
	}
	for _, kv := range all.Kvs {
		if have := copied[string(kv.Key)]; have != string(kv.Value) {
			return fmt.Errorf("the copy has %q for %s, and not %q", have, kv.Key, kv.Value)
		}
	}
	return nil
}

// modified is the last revision that changed what was read.
func modified(r *clientv3.GetResponse) (rev int64) {
	for _, kv := range r.Kvs {
		rev = max(rev, kv.ModRevision)
	}
	return rev
}

// namingPart changes an endpoint, and waits until who watches has been told.
func namingPart(ctx context.Context, _ *play, c *clientv3.Client, round func() bool) error {
	m, err := endpoints.NewManager(c, "naming")
	if err != nil {
		return err
	}
	var updates endpoints.WatchChannel
	if err := persist(ctx, func(context.Context) (err error) {
		updates, err = m.NewWatchChannel(ctx) // not bounded by the attempt
		return err
	}); err != nil {
		return err
	}
	for n := 1; round(); n++ {
		addr := fmt.Sprintf("127.0.0.1:%d", n)
		if err := persist(ctx, func(ctx context.Context) error {
			return m.AddEndpoint(ctx, "naming/a", endpoints.Endpoint{Addr: addr})
		}); err != nil {
			return err
		}
		for told := ""; told != addr; {
			select {
			case us, ok := <-updates:
				if !ok {
					return errors.New("the watch has ended")
				}
				told = us[len(us)-1].Endpoint.Addr
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// leasingPart has one client write, and another that keeps keys in memory read what
// was written.
func leasingPart(ctx context.Context, p *play, c *clientv3.Client, round func() bool) error {
	other, err := clientv3.New(clientv3.Config{Endpoints: p.endpoints, DialTimeout: patience})
	if err != nil {
		return err
	}
	defer other.Close()
	reader, stopReader, err := leasing.NewKV(c, "/leasing/")
	if err != nil {
		return err
	}
	defer stopReader()
	writer, stopWriter, err := leasing.NewKV(other, "/leasing/")
	if err != nil {
		return err
	}
	defer stopWriter()
	for n := 1; round(); n++ {
		want := strconv.Itoa(n)
		if err := persist(ctx, func(ctx context.Context) error {
			_, err := writer.Put(ctx, "/leased", want)
			return err
		}); err != nil {
			return err
		}
		if err := persist(ctx, func(ctx context.Context) error {
			r, err := reader.Get(ctx, "/leased")
			if err == nil && string(r.Kvs[0].Value) != want {
				return fmt.Errorf("read %s after %s was written", r.Kvs[0].Value, want)
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// orderingPart reads whatever the members have, which may be old, but not older than
// what it has read before.
func orderingPart(ctx context.Context, p *play, c *clientv3.Client, round func() bool) error {
	members, err := clientv3.New(clientv3.Config{Endpoints: p.endpoints, DialTimeout: patience})
	if err != nil {
		return err
	}
	defer members.Close()
	kv := ordering.NewKV(members, ordering.NewOrderViolationSwitchEndpointClosure(members))
	var last int64
	for n := 1; round(); n++ {
		if err := persist(ctx, func(ctx context.Context) error {
			_, err := c.Put(ctx, "/ordering", strconv.Itoa(n))
			return err
		}); err != nil {
			return err
		}
		var r *clientv3.GetResponse
		if err := persist(ctx, func(ctx context.Context) (err error) {
			r, err = kv.Get(ctx, "/ordering", clientv3.WithSerializable())
			return err
		}); err != nil {
			return err
		}
		if r.Header.Revision < last {
			return fmt.Errorf("read at %d after %d", r.Header.Revision, last)
		}
		last = r.Header.Revision
	}
	return nil
}

// lockServicePart takes turns in owning a lock of the service.
func lockServicePart(ctx context.Context, _ *play, c *clientv3.Client, round func() bool) error {
	locks := lockpb.NewLockClient(c.ActiveConnection())
	var inside atomic.Int32
	var owners errgroup.Group
	for range 3 {
		s, err := patient(ctx, c)
		if err != nil {
			return err
		}
		owners.Go(func() error {
			for {
				var held *lockpb.LockResponse
				if err := persist(ctx, func(ctx context.Context) (err error) {
					held, err = locks.Lock(ctx, &lockpb.LockRequest{Name: []byte("/lock"), Lease: int64(s.Lease())})
					return err
				}); err != nil {
					return err
				}
				if n := inside.Add(1); n != 1 {
					return fmt.Errorf("%d own the lock", n)
				}
				more := round()
				inside.Add(-1)
				if err := persist(ctx, func(ctx context.Context) error {
					_, err := locks.Unlock(ctx, &lockpb.UnlockRequest{Key: held.Key})
					return err
				}); err != nil || !more {
					return err
				}
			}
		})
	}
	return owners.Wait()
}

// electionServicePart leads again and again, and says so.
func electionServicePart(ctx context.Context, _ *play, c *clientv3.Client, round func() bool) error {
	elections := electionpb.NewElectionClient(c.ActiveConnection())
	name := []byte("/service")
	s, err := patient(ctx, c)
	if err != nil {
		return err
	}
	for n := 1; round(); n++ {
		value := []byte(strconv.Itoa(n))
		if err := persist(ctx, func(ctx context.Context) error {
			won, err := elections.Campaign(ctx, &electionpb.CampaignRequest{Name: name, Lease: int64(s.Lease()), Value: value})
			if err != nil {
				return err
			}
			leader, err := elections.Leader(ctx, &electionpb.LeaderRequest{Name: name})
			if err == nil && string(leader.Kv.Value) != string(value) {
				return fmt.Errorf("%s leads, and not %s", leader.Kv.Value, value)
			}
			if err == nil && n%2 == 0 {
				_, err = elections.Resign(ctx, &electionpb.ResignRequest{Leader: won.Leader})
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}
