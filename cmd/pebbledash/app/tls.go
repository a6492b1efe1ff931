package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"sync"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
	"github.com/pebbledash/pebbledash/gateway/serving"
	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/member"
)

// certificates are what TLS needs on both sides.
type certificates struct{ clients, members *serving.TLS }

// newCertificates reads the files that the configuration names, and makes those
// that it wants to be made.
func newCertificates(c *options.CompletedConfig, logger *slog.Logger, clk clock.Clock) (*certificates, error) {
	clients, members := c.TLS, c.PeerTLS
	if c.AutoTLS && clients.CertFile == "" {
		urls := slices.Concat(c.ListenClientURLs, c.ListenMetricsURLs, c.AdvertiseClientURLs)
		for _, u := range c.GroupListenClientURLs {
			urls = append(urls, u.URL)
		}
		if err := selfSign(&clients, "client", urls, c, logger, clk); err != nil {
			return nil, err
		}
	}
	if c.PeerAutoTLS && members.CertFile == "" {
		urls := slices.Concat(c.ListenPeerURLs, c.AdvertisePeerURLs)
		if err := selfSign(&members, "peer", urls, c, logger, clk); err != nil {
			return nil, err
		}
	}
	var cs certificates
	var err error
	if cs.clients, err = serving.NewTLS(clients, logger, clk); err != nil {
		return nil, err
	}
	if cs.members, err = serving.NewTLS(members, logger, clk); err != nil {
		return nil, fmt.Errorf("members: %w", err)
	}
	return &cs, nil
}

// selfSign has config name the member's own certificate for the hosts of urls, and
// makes it if there is none.
func selfSign(config *serving.TLSConfig, side string, urls []url.URL, c *options.CompletedConfig, logger *slog.Logger, clk clock.Clock) error {
	var hosts []string
	for _, u := range urls {
		if _, address := options.Address(u); u.Hostname() != "" && address == u.Host && !slices.Contains(hosts, u.Hostname()) {
			hosts = append(hosts, u.Hostname())
		}
	}
	folder, err := filepath.Abs(filepath.Join(c.DataDir, member.FixturesName, side))
	if err != nil {
		return err
	}
	var made bool
	if config.CertFile, config.KeyFile, made, err = serving.SelfSigned(folder, hosts, c.SelfSignedYears, clk.Now()); err != nil {
		return err
	}
	if made {
		logger.Warn("made a certificate, which nobody vouches for", "file", config.CertFile, "hosts", hosts, "years", c.SelfSignedYears)
	}
	return nil
}

// run follows the files until ctx ends.
func (cs *certificates) run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { cs.clients.Run(ctx) })
	both.Go(func() { cs.members.Run(ctx) })
	both.Wait()
}

// listen opens every socket. If it fails, some may be open.
func (e *Env) listen(cs *certificates) error {
	clientTLS, peerTLS := cs.clients.Server(), cs.members.Server()
	e.PeerDialTLS = cs.members.Dial
	var err error
	if e.ClientListeners, err = listen(e.Config.ListenClientURLs, clientTLS); err != nil {
		return err
	}
	if e.GroupListeners, err = listenForGroups(e.Config.GroupListenClientURLs, clientTLS); err != nil {
		return err
	}
	if e.MetricsListeners, err = listen(e.Config.ListenMetricsURLs, clientTLS); err != nil {
		return err
	}
	e.PeerListeners, err = listen(e.Config.ListenPeerURLs, peerTLS)
	return err
}
