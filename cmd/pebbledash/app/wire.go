package app

import (
	"context"
	"net"
	"sync"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
	"github.com/pebbledash/pebbledash/gateway"
	"github.com/pebbledash/pebbledash/gateway/watchcache"
	"github.com/pebbledash/pebbledash/storage/member"
)

const (
	// heapFloor is what the collector takes the heap to hold besides what it
	// does. Without it, with little data, it would run many times a second and
	// shrink the stacks of waiting calls each time: a third of the CPU of a get.
	heapFloor = 128 << 20
	// streamWorkers stay to serve calls, with the stack that they have grown.
	streamWorkers = 256
)

// joined is a member with the gateway before it and the hub between them.
type joined struct {
	env     *Env
	hub     *watchcache.Hub
	member  *member.Member
	gateway *gateway.Server
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
	j := &joined{env: env, failed: make(chan error, 1), stopping: make(chan struct{})}
	j.ballast = make([]byte, heapFloor)
	j.hub = watchcache.NewHub(watchcache.Config{Registerer: env.Registry})
	ver, _ := Version()
	var err error
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
		Events:         j.hub,
		Fatal:          func(err error) { j.failed <- err },
	})
	if err != nil {
		j.hub.Close()
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
		Profiling:             c.EnablePprof,
		Registerer:            env.Registry,
		Gatherer:              env.Registry,
		Logger:                env.Logger,
		Clock:                 env.Clock,
	}, j.member)
	return j, nil
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
		go func() { served <- j.gateway.ServeHTTP(l) }()
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
	return j.member.Close()
}
