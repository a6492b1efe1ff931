package app

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
)

// newTLSConfig returns the configuration for serving clients, or nil if there
// is no certificate. The files are looked at on every handshake and read again
// when they have changed, so that certificates and authorities can be renewed
// without a restart; while they cannot be read, the last good ones serve.
func newTLSConfig(cfg options.TLSConfig, logger *slog.Logger) (*tls.Config, error) {
	if cfg.CertFile == "" {
		return nil, nil
	}
	r, err := newTLSReloader(cfg, logger)
	if err != nil {
		return nil, err
	}
	return r.serverConfig(), nil
}

// newPeerTLS returns the configurations for serving other members, nil if there
// is no certificate, and for connecting to them.
//
// A member shows the same certificate to those that it connects to as to those
// that connect to it, and it is read again in the same way. The authorities by
// which it knows those that it connects to, the system's if none are named, are
// those of the start, as in etcd: let the file hold the old and the new ones
// while members are renewed.
func newPeerTLS(cfg options.TLSConfig, logger *slog.Logger) (serve, dial *tls.Config, err error) {
	dial = &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CertFile == "" {
		return nil, dial, nil
	}
	r, err := newTLSReloader(cfg, logger)
	if err != nil {
		return nil, nil, fmt.Errorf("members: %w", err)
	}
	dial.RootCAs = r.get().ClientCAs
	dial.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &r.get().Certificates[0], nil
	}
	return r.serverConfig(), dial, nil
}

func loadTLS(cfg options.TLSConfig) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot load certificate: %w", err)
	}
	c := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if cfg.TrustedCAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(cfg.TrustedCAFile)
	if err != nil {
		return nil, fmt.Errorf("cannot load trusted CA: %w", err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", cfg.TrustedCAFile)
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	return c, nil
}

func newTLSReloader(cfg options.TLSConfig, logger *slog.Logger) (*tlsReloader, error) {
	r := &tlsReloader{cfg: cfg, logger: logger}
	stamps, err := r.stat()
	if err != nil {
		return nil, err
	}
	if r.current, err = loadTLS(cfg); err != nil {
		return nil, err
	}
	r.stamps = stamps
	return r, nil
}

// tlsReloader keeps a tls.Config and the state of the files it came from.
type tlsReloader struct {
	cfg    options.TLSConfig
	logger *slog.Logger

	// mu guards what follows. Nothing is taken after it.
	mu      sync.Mutex
	current *tls.Config
	// stamps are of the last attempt to load, even of one that failed: a broken
	// file is tried and complained about once.
	stamps [3]fileStamp
}

// fileStamp tells versions of a file apart.
type fileStamp struct {
	changed time.Time
	size    int64
}

func (r *tlsReloader) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return r.get(), nil
		},
	}
}

// get returns the newest configuration that could be loaded.
func (r *tlsReloader) get() *tls.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	stamps, err := r.stat()
	if err == nil && stamps == r.stamps {
		return r.current
	}
	var next *tls.Config
	if err == nil {
		r.stamps = stamps
		next, err = loadTLS(r.cfg)
	}
	if err != nil {
		r.logger.Warn("certificates have changed, but cannot be loaded: serving the old ones", "error", err)
		return r.current
	}
	r.logger.Info("loaded certificates that have changed", "cert_file", r.cfg.CertFile)
	r.current = next
	return r.current
}

// stat returns the files' stamps; a file without a name has the zero one.
func (r *tlsReloader) stat() ([3]fileStamp, error) {
	var stamps [3]fileStamp
	var errs []error
	for i, path := range []string{r.cfg.CertFile, r.cfg.KeyFile, r.cfg.TrustedCAFile} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		stamps[i] = fileStamp{info.ModTime(), info.Size()}
	}
	return stamps, errors.Join(errs...)
}
