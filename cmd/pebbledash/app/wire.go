package app

import (
	"context"
	"net"
	"os"
	"runtime"
	"sync"

	etcdversion "go.etcd.io/etcd/api/v3/version"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
	"github.com/pebbledash/pebbledash/gateway"
	"github.com/pebbledash/pebbledash/gateway/admission"
	"github.com/pebbledash/pebbledash/gateway/serving"
	"github.com/pebbledash/pebbledash/gateway/watchcache"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/route"
)

const (
	// heapFloor is what the collector takes the heap to hold besides what it
	// does. Without it, with little data, it would run many times a second and
	// shrink the stacks of waiting calls each time: a third of the CPU of a get.
	heapFloor = 128 << 20
	// streamWorkers stay to serve calls, with the stack that they have grown.
	streamWorkers = 256
)

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
	// failed gets what the member can't go on from.
	failed chan error
	// stopping is closed by Stop.
	stopping chan struct{}
	// ballast is never touched, so that it takes no memory.
	ballast []byte
}

// open opens the member's store and puts the gateway before it. It is the one
// place where the rooms of storage and gateway are joined.
func open(env *Env) (server, error) {
	c := env.Config
	prefix, err := route.ParsePrefix(c.EtcdPrefix)
	if err != nil {
		return nil, err
	}
	limits, err := admission.New(admission.Config{
		MaxInflight:         c.MaxRequestsInflight,
		MaxMutatingInflight: c.MaxMutatingRequestsInflight,
		Resources:           c.ResourceMaxInflight,
		Prefix:              prefix,
		Registerer:          env.Registry,
		Clock:               env.Clock,
	})
	if err != nil {
		return nil, err
	}
	traces, err := newTraces(c, env.Logger)
	if err != nil {
		return nil, err
	}
	j := &joined{env: env, traces: traces, failed: make(chan error, 1), stopping: make(chan struct{})}
	j.ballast = make([]byte, heapFloor)
	shareProcessors()
	j.hub = newHub(env, prefix)
	ver, _ := Version()
	// A member that joins a cluster asks it, within bounds of its own.
	j.member, err = member.Open(context.Background(), member.Config{
		Dir:            c.DataDir,
		Name:           c.Name,
		PeerURLs:       options.Strings(c.AdvertisePeerURLs),
		ClientURLs:     options.Strings(c.AdvertiseClientURLs),
		InitialCluster: c.InitialCluster,
		ClusterToken:   c.InitialClusterToken,
		Join:           !c.NewCluster,
		Routes:         c.Routes,
		PeerListeners:  netListeners(env.PeerListeners),
		PeerTLS:        env.PeerDialTLS,
		SpreadLeaders:  c.SpreadLeaders,
		LaxReconfig:    !c.StrictReconfigCheck,
		MaxLearners:    c.MaxLearners,
		CatchUpEntries: c.CatchUpEntries,
		Version:        ver,
		TickInterval:   c.HeartbeatInterval,
		ElectionTicks:  int(c.ElectionTimeout / c.HeartbeatInterval),
		Clock:          env.Clock,
		Logger:         env.Logger,
		Registerer:     env.Registry,
		Traced:         traces != nil,
		Events:         j.hub,
		Through:        j.hub.Through,
		Fatal:          func(err error) { j.failed <- err },
	})
	if err != nil {
		j.hub.Close()
		traces.stop(context.Background())
		return nil, err
	}
	j.hub.Start(j.member, j.member.Closed())
	j.gateway = gateway.New(gateway.Config{
		MaxRequestBytes:       c.MaxRequestBytes,
		MaxTxnOps:             c.MaxTxnOps,
		MaxConcurrentStreams:  c.MaxConcurrentStreams,
		StreamWorkers:         streamWorkers,
		KeepaliveMinTime:      c.KeepAlive.MinTime,
		KeepaliveInterval:     c.KeepAlive.Interval,
		KeepaliveTimeout:      c.KeepAlive.Timeout,
		ElectionTimeout:       c.ElectionTimeout,
		WatchProgressInterval: c.WatchProgressNotifyInterval,
		Hub:                   j.hub,
		Admission:             limits,
		Profiling:             c.EnablePprof,
		ExtensiveMetrics:      c.ExtensiveMetrics,
		TracerProvider:        traces.provider(),
		TracesPerMillion:      traces.chance(),
		Routes:                c.Routes,
		Registerer:            env.Registry,
		Gatherer:              env.Registry,
		Logger:                env.Logger,
		Clock:                 env.Clock,
	}, j.member)
	serving.InstallPages(j.gateway.Ops(), c.Flags, ver, etcdversion.Version)
	return j, nil
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
		case <-j.stopping:
			return nil
		}
	}
	return nil
}

// Stop implements server.
func (j *joined) Stop(ctx context.Context) error {
	close(j.stopping)
	// Streams end with the hub, calls with the gateway; both at once.
	var wg sync.WaitGroup
	wg.Go(func() { j.gateway.Stop(ctx) })
	wg.Go(j.hub.Close)
	wg.Wait()
	j.traces.stop(ctx)
	return j.member.Close()
}
