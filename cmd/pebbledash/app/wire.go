package app

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	etcdversion "go.etcd.io/etcd/api/v3/version"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
	"github.com/pebbledash/pebbledash/gateway"
	"github.com/pebbledash/pebbledash/gateway/admission"
	"github.com/pebbledash/pebbledash/gateway/autocompact"
	"github.com/pebbledash/pebbledash/gateway/serving"
	"github.com/pebbledash/pebbledash/gateway/watchcache"
	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/route"
)

// streamWorkers stay to serve calls, with the stack that they have grown.
const streamWorkers = 256

// crowded is how many processors are few: from there on Go has as many threads as
// there are processors, which is its default.
const crowded = 8

// shareProcessors gives a machine of few processors twice as many threads to run
// Go's goroutines. With one a processor, a long list, a flush or a compaction keeps a
// processor for ten milliseconds from everybody else; the kernel takes turns between
// threads much sooner. Whoever sets GOMAXPROCS knows better.
func shareProcessors() {
	if n := runtime.GOMAXPROCS(0); n < crowded && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * n)
	}
}

// joined is a member with the gateway before it and the hub between them.
type joined struct {
	env     *Env
	hub     *watchcache.Hub
	member  *member.Member
	gateway *gateway.Server
	traces  *traces
	// serving is gateway for those who come before it is there.
	serving atomic.Pointer[gateway.Server]
	// failed gets what the member can't go on from.
	failed chan error
	// lifetime is ended by Stop.
	lifetime context.Context
	end      context.CancelFunc
	// background are what works beside calls, until the end.
	background sync.WaitGroup
}

// open opens the member's store and puts the gateway before it. It is the one
// place where the rooms of storage and gateway are joined.
func open(env *Env) (server, error) {
	c := env.Config
	prefix, err := route.ParsePrefix(c.EtcdPrefix)
	if err != nil {
		return nil, err
	}
	j := &joined{env: env, failed: make(chan error, 1)}
	j.lifetime, j.end = context.WithCancel(context.Background())
	limits, err := admission.New(admission.Config{
		MaxInflight:         c.MaxRequestsInflight,
		MaxMutatingInflight: c.MaxMutatingRequestsInflight,
		Resources:           c.ResourceMaxInflight,
		Prefix:              prefix,
		QuotaReached: func() bool {
			g := j.serving.Load()
			return g != nil && g.QuotaReached()
		},
		Registerer: env.Registry,
		Clock:      env.Clock,
	})
	if err != nil {
		return nil, err
	}
	tokens, err := auth.NewMint(auth.TokenConfig{
		Spec: c.AuthToken, SimpleTTL: c.AuthTokenTTL, ReadFile: os.ReadFile, Clock: env.Clock,
	})
	if err != nil {
		return nil, fmt.Errorf("--auth-token: %w", err)
	}
	traces, err := newTraces(c, env.Logger)
	if err != nil {
		return nil, err
	}
	j.traces = traces
	j.paceCollector()
	shareProcessors()
	j.hub = newHub(env, prefix)
	ver, _ := Version()
	// A member that joins a cluster asks it, within bounds of its own.
	j.member, err = member.Open(context.Background(), j.memberConfig(ver))
	if err != nil {
		j.hub.Close()
		j.end()
		traces.stop(context.Background())
		return nil, err
	}
	j.hub.Start(j.member, j.member.Closed())
	j.gateway = gateway.New(j.gatewayConfig(ver, limits, tokens), j.member)
	j.serving.Store(j.gateway)
	// What was changed before nobody has told it.
	j.gateway.ReadRecords()
	if c.CompactionPeriod > 0 || c.CompactionRevisions > 0 {
		j.compact()
	}
	j.keepHeap()
	serving.InstallPages(j.gateway.Ops(), c.Flags, ver, etcdversion.Version)
	return j, nil
}

// memberConfig says how the member runs, as this version.
// REQUIRES: the hub and the traces are there.
func (j *joined) memberConfig(ver string) member.Config {
	env, c := j.env, j.env.Config
	return member.Config{
		Dir:             c.DataDir,
		Name:            c.Name,
		PeerURLs:        options.Strings(c.AdvertisePeerURLs),
		ClientURLs:      options.Strings(c.AdvertiseClientURLs),
		InitialCluster:  c.InitialCluster,
		ClusterToken:    c.InitialClusterToken,
		Join:            !c.NewCluster,
		ForceNewCluster: c.ForceNewCluster,
		Routes:          c.Routes,
		PeerListeners:   netListeners(env.PeerListeners),
		PeerTLS:         env.PeerDialTLS,
		SpreadLeaders:   c.SpreadLeaders,
		LaxReconfig:     !c.StrictReconfigCheck,
		MaxLearners:     c.MaxLearners,
		CatchUpEntries:  c.CatchUpEntries,
		CacheBytes:      c.CacheBytes,
		MemTableBytes:   c.MemTableBytes,
		Version:         ver,
		TickInterval:    c.HeartbeatInterval,
		ElectionTicks:   int(c.ElectionTimeout / c.HeartbeatInterval),
		Clock:           env.Clock,
		Logger:          env.Logger,
		Registerer:      env.Registry,
		Traced:          j.traces != nil,
		Events:          j.hub,
		Through:         j.hub.Through,
		RecordsChanged:  j.recordsChanged,
		Fatal:           func(err error) { j.failed <- err },
	}
}

// gatewayConfig says what the gateway serves with.
// REQUIRES: as memberConfig.
func (j *joined) gatewayConfig(ver string, limits *admission.Limiter, tokens auth.Mint) gateway.Config {
	env, c := j.env, j.env.Config
	return gateway.Config{
		MaxRequestBytes:       c.MaxRequestBytes,
		MaxTxnOps:             c.MaxTxnOps,
		QuotaBytes:            c.QuotaBytes,
		CorruptCheckTime:      c.CorruptCheckTime,
		CompactHashCheckTime:  c.CompactHashCheckTime,
		SlowRequest:           c.SlowRequest,
		GroupQuotaBytes:       c.GroupQuotaBytes,
		MaxConcurrentStreams:  c.MaxConcurrentStreams,
		StreamWorkers:         streamWorkers,
		ProductVersion:        ver,
		KeepaliveMinTime:      c.KeepAlive.MinTime,
		KeepaliveInterval:     c.KeepAlive.Interval,
		KeepaliveTimeout:      c.KeepAlive.Timeout,
		ElectionTimeout:       c.ElectionTimeout,
		WatchProgressInterval: c.WatchProgressNotifyInterval,
		Hub:                   j.hub,
		Admission:             limits,
		Tokens:                tokens,
		BcryptCost:            c.BcryptCost,
		CommonNames:           c.ClientCertAuth,
		DisableJSON:           !c.EnableGRPCGateway,
		CORSOrigins:           c.CORS,
		HostWhitelist:         c.HostWhitelist,
		Profiling:             c.EnablePprof,
		ExtensiveMetrics:      c.ExtensiveMetrics,
		TracerProvider:        j.traces.provider(),
		TracesPerMillion:      j.traces.chance(),
		Routes:                c.Routes,
		Registerer:            env.Registry,
		Gatherer:              env.Registry,
		Logger:                env.Logger,
		Clock:                 env.Clock,
	}
}

// recordsChanged tells the gateway, once it is there.
func (j *joined) recordsChanged(table string) {
	if g := j.serving.Load(); g != nil {
		g.RecordsChanged(table)
	}
}

// compact has the member compact the store by itself, if it leads, until it stops.
func (j *joined) compact() {
	c := j.env.Config
	j.background.Go(func() {
		autocompact.Run(j.lifetime, autocompact.Config{
			Period: c.CompactionPeriod, Revisions: c.CompactionRevisions,
			Leads:    func() bool { return j.member.Leader() == j.member.Status().MemberID },
			Revision: j.member.Revision,
			Compact: func(ctx context.Context, rev int64) error {
				_, err := j.member.Do(ctx, &evaluate.Compact{Revision: rev})
				return err
			},
			Clock: j.env.Clock, Logger: j.env.Logger,
		})
	})
}

// newHub makes the watch cache.
func newHub(env *Env, prefix route.Prefix) *watchcache.Hub {
	c := env.Config
	cfg := watchcache.Config{Registerer: env.Registry}
	if c.WatchCache {
		cfg.Resources, cfg.MaxBytes = prefix, c.WatchCacheBytes
		cfg.HistoryEvents = c.WatchCacheSize
		if cfg.HistoryEvents == 0 {
			cfg.HistoryEvents = -1 // nothing, and not the default
		}
		cfg.HistorySizes = map[string]int{}
		for _, n := range c.WatchCacheSizes {
			cfg.HistorySizes[prefix.Join(n.Path)+"/"] = n.N
		}
	}
	return watchcache.NewHub(cfg)
}

func netListeners(ls []Listener) []net.Listener {
	var out []net.Listener
	for _, l := range ls {
		out = append(out, l)
	}
	return out
}

// Ready implements server.
func (j *joined) Ready() <-chan struct{} { return j.member.Ready() }

// Serve implements server.
func (j *joined) Serve() error {
	env := j.env
	served := make(chan error, len(env.ClientListeners)+len(env.GroupListeners)+len(env.MetricsListeners))
	// Health and metrics are told from the beginning: a member that waits for the
	// others is alive.
	for _, l := range env.MetricsListeners {
		go func() { served <- j.gateway.ServeOps(l) }()
	}
	ready := j.member.Ready()
	for left := cap(served); left > 0; {
		select {
		case <-ready:
			ready = nil // once
			if err := j.checkSelf(); err != nil {
				return err
			}
			for _, ls := range [...][]Listener{env.ClientListeners, env.GroupListeners} {
				for _, l := range ls {
					go func() { served <- j.gateway.Serve(l) }()
				}
			}
		case err := <-served:
			if err != nil {
				return err
			}
			left--
		case err := <-j.failed:
			return err
		case <-j.lifetime.Done():
			return nil
		}
	}
	return nil
}

// checkSelf refuses to serve what differs from what the other members have.
func (j *joined) checkSelf() error {
	if !j.env.Config.InitialCorruptCheck {
		return nil
	}
	c, err := j.member.Compare(j.lifetime)
	if err != nil {
		return fmt.Errorf("the member could not be compared with the others (--feature-gates=InitialCorruptCheck=true): %w", err)
	}
	self := j.member.Status().MemberID
	if slices.Contains(c.Different, self) {
		return fmt.Errorf("what member %s has at revision %d differs from what the others have: remove the member, "+
			"and add it again with an empty data directory", member.FormatID(self), c.Revision)
	}
	j.env.Logger.Info("compared with the other members", "revision", c.Revision,
		"members", len(c.Compared), "missing", len(c.Missing))
	return nil
}

// Stop implements server.
func (j *joined) Stop(ctx context.Context) error {
	j.end()
	// Streams end with the hub, calls with the gateway; both at once.
	var wg sync.WaitGroup
	wg.Go(func() { j.gateway.Stop(ctx) })
	wg.Go(j.hub.Close)
	wg.Wait()
	j.background.Wait()
	j.traces.stop(ctx)
	return j.member.Close()
}
