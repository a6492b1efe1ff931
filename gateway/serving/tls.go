package serving

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// checkInterval is how often the files are looked at beside being watched: not
// every file system tells of changes, and what is wrong is to be said.
const checkInterval = 2 * time.Second

// TLSConfig says how a member speaks TLS with its clients, or with other members.
type TLSConfig struct {
	// CertFile and KeyFile are empty if it can't be spoken to over TLS.
	CertFile string
	KeyFile  string
	// DialCertFile and DialKeyFile are shown to whom this member connects to; if
	// they are empty it is CertFile and KeyFile.
	DialCertFile string
	DialKeyFile  string
	// TrustedCAFile is what the certificates of the other side are verified
	// against; if it is not empty, who connects must have one. Whom this member
	// connects to is verified by the system's authorities if it is empty.
	TrustedCAFile string
	// CRLFile lists certificates that were revoked, in PEM or DER. As in etcd only
	// their serial numbers count.
	CRLFile string
	// AllowedNames are the common names that the other side may have, and
	// AllowedHosts the hosts of which its certificate must name one. At most one of
	// the two is not empty; if both are, whoever has a certificate may come in.
	AllowedNames []string
	AllowedHosts []string
	// CheckAddress refuses who connects from elsewhere than its certificate says, if
	// that names any host.
	CheckAddress bool
	// SelfSigned says that the certificates of both sides are their own, so that
	// there is nothing to verify them by.
	SelfSigned bool
	// MinVersion and MaxVersion are crypto/tls's; 0 is TLS 1.2, and the newest.
	MinVersion, MaxVersion uint16
	// CipherSuites are those of TLS 1.2; none is Go's choice.
	CipherSuites []uint16
}

// TLS is a TLSConfig with what its files hold. Its methods may be called
// concurrently.
type TLS struct {
	cfg    TLSConfig
	logger *slog.Logger
	clock  clock.Clock

	// The fields below are nil if their files were not named. They hold the last
	// content that could be loaded.
	cert, dialCert *dynamiccertificates.DynamicCertKeyPairContent
	ca             *dynamiccertificates.DynamicFileCAContent
	revoked        *revoked
	// controller makes the configuration for serving of cert and ca.
	controller *dynamiccertificates.DynamicServingCertificateController

	// sources are what of the above there is.
	sources []source
}

// source is something that was read from files.
type source struct {
	file string
	load func(context.Context) error
	// run watches the files until the context ends. May be nil.
	run func(context.Context)
	// broken is what was wrong with the file when it was last looked at. It belongs
	// to the goroutine of Run.
	broken string
}

// NewTLS reads the files. Until Run they are not looked at again.
func NewTLS(cfg TLSConfig, logger *slog.Logger, clk clock.Clock) (*TLS, error) {
	t := &TLS{cfg: cfg, logger: logger, clock: clk}
	var err error
	if cfg.CertFile != "" {
		if t.cert, err = t.pair("serving", cfg.CertFile, cfg.KeyFile); err != nil {
			return nil, err
		}
	}
	t.dialCert = t.cert
	if cfg.DialCertFile != "" {
		if t.dialCert, err = t.pair("dialing", cfg.DialCertFile, cfg.DialKeyFile); err != nil {
			return nil, err
		}
	}
	if cfg.TrustedCAFile != "" {
		if t.ca, err = dynamiccertificates.NewDynamicCAContentFromFile("trusted-ca", cfg.TrustedCAFile); err != nil {
			return nil, fmt.Errorf("cannot load trusted CA: %w", err)
		}
		t.ca.AddListener(loaded{t, cfg.TrustedCAFile})
		t.sources = append(t.sources, source{file: cfg.TrustedCAFile, load: t.ca.RunOnce, run: func(ctx context.Context) { t.ca.Run(ctx, 1) }})
	}
	if cfg.CRLFile != "" {
		if t.revoked, err = loadRevoked(cfg.CRLFile, loaded{t, cfg.CRLFile}.Enqueue); err != nil {
			return nil, err
		}
		t.sources = append(t.sources, source{file: cfg.CRLFile, load: func(context.Context) error { return t.revoked.load() }})
	}
	if t.cert == nil {
		return t, nil
	}
	return t, t.control()
}

func (t *TLS) pair(purpose, certFile, keyFile string) (*dynamiccertificates.DynamicCertKeyPairContent, error) {
	p, err := dynamiccertificates.NewDynamicServingContentFromFiles(purpose, certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot load certificate %s with key %s: %w", certFile, keyFile, err)
	}
	p.AddListener(loaded{t, certFile})
	t.sources = append(t.sources, source{file: certFile, load: p.RunOnce, run: func(ctx context.Context) { p.Run(ctx, 1) }})
	return p, nil
}

// control has the controller follow the certificate and the authorities.
func (t *TLS) control() error {
	base := t.base()
	base.NextProtos = []string{"h2", "http/1.1"}
	var authorities dynamiccertificates.CAContentProvider // not a nil *DynamicFileCAContent
	if t.ca != nil {
		authorities = t.ca
		base.ClientAuth = tls.RequireAndVerifyClientCert
		base.SessionTicketsDisabled = true // invariant 2
	}
	t.controller = dynamiccertificates.NewDynamicServingCertificateController(base, authorities, t.cert, nil, nil)
	if err := t.controller.RunOnce(); err != nil {
		return fmt.Errorf("cannot load certificate: %w", err)
	}
	t.cert.AddListener(t.controller)
	if t.ca != nil {
		t.ca.AddListener(t.controller)
	}
	return nil
}

func (t *TLS) base() *tls.Config {
	return &tls.Config{
		MinVersion:   max(t.cfg.MinVersion, tls.VersionTLS12),
		MaxVersion:   t.cfg.MaxVersion,
		CipherSuites: t.cfg.CipherSuites,
	}
}

// loaded is told that a file was loaded that is not what it was.
type loaded struct {
	t    *TLS
	file string
}

// Enqueue implements dynamiccertificates.Listener.
func (l loaded) Enqueue() {
	l.t.logger.Info("loaded certificates that have changed", "file", l.file)
}

// Run follows the files, if there are any, until ctx ends.
func (t *TLS) Run(ctx context.Context) {
	if len(t.sources) == 0 {
		return
	}
	var all sync.WaitGroup
	defer all.Wait()
	for _, s := range t.sources {
		if s.run != nil {
			all.Go(func() { s.run(ctx) })
		}
	}
	if t.controller != nil {
		all.Go(func() { t.controller.Run(1, ctx.Done()) })
	}
	ticker := t.clock.NewTicker(checkInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			t.check(ctx)
		}
	}
}

// check loads every file, and says once what is wrong with one.
func (t *TLS) check(ctx context.Context) {
	for i := range t.sources {
		s := &t.sources[i]
		problem := ""
		if err := s.load(ctx); err != nil {
			problem = err.Error()
		}
		if problem != "" && problem != s.broken {
			t.logger.Error("certificates have changed, but cannot be loaded: the old ones stay in use", "file", s.file, "error", problem)
		}
		s.broken = problem
	}
}

// Server returns the configuration for listeners, nil if there is no certificate.
// It follows the files.
func (t *TLS) Server() *tls.Config {
	if t.controller == nil {
		return nil
	}
	c := t.base()
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := t.controller.GetConfigForClient(hello)
		if err != nil || t.ca == nil {
			return c, err
		}
		from := hello.Conn.RemoteAddr()
		c.VerifyConnection = func(s tls.ConnectionState) error {
			if err := t.admit(s.PeerCertificates); err != nil || !t.cfg.CheckAddress {
				return err
			}
			return checkAddress(hello.Context(), s.PeerCertificates[0], from)
		}
		return c, nil
	}
	return c
}

// Dial returns the configuration for connecting to others as it is now, for one
// connection.
func (t *TLS) Dial() *tls.Config {
	c := t.base()
	c.InsecureSkipVerify = t.cfg.SelfSigned
	if t.ca != nil {
		if opts, ok := t.ca.VerifyOptions(); ok {
			c.RootCAs = opts.Roots
		}
	}
	if t.dialCert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.X509KeyPair(t.dialCert.CurrentCertKeyContent())
			return &pair, err
		}
	}
	c.VerifyConnection = func(s tls.ConnectionState) error { return t.admit(s.PeerCertificates) }
	return c
}

// admit judges who has shown certificates that an authority vouches for; the first
// is its own.
func (t *TLS) admit(shown []*x509.Certificate) error {
	if len(shown) == 0 {
		return errors.New("the other side has shown no certificate")
	}
	own := shown[0]
	isFor := func(host string) bool { return own.VerifyHostname(host) == nil }
	switch names, hosts := t.cfg.AllowedNames, t.cfg.AllowedHosts; {
	case len(names) > 0 && !slices.Contains(names, own.Subject.CommonName):
		return fmt.Errorf("the certificate's common name %q is not one of those that are allowed", own.Subject.CommonName)
	case len(hosts) > 0 && !slices.ContainsFunc(hosts, isFor):
		return fmt.Errorf("the certificate of %q is for none of the hosts that are allowed", own.Subject.CommonName)
	case t.revoked == nil:
		return nil
	}
	return t.revoked.check(shown)
}

// checkAddress returns an error if a certificate names hosts, and who shows it
// connects from none of them.
func checkAddress(ctx context.Context, cert *x509.Certificate, from net.Addr) error {
	host, _, err := net.SplitHostPort(from.String())
	if err != nil || len(cert.IPAddresses)+len(cert.DNSNames) == 0 {
		return nil //nolint:nilerror // a Unix socket has no port, and no address to check
	}
	if len(cert.IPAddresses) > 0 && cert.VerifyHostname(host) == nil {
		return nil
	}
	// What the address is called, and then what the names' addresses are.
	called, _ := net.DefaultResolver.LookupAddr(ctx, host)
	for _, name := range called {
		if cert.VerifyHostname(name) == nil {
			return nil
		}
	}
	for _, name := range cert.DNSNames {
		if addresses, err := net.DefaultResolver.LookupHost(ctx, name); err == nil && slices.Contains(addresses, host) {
			return nil
		}
	}
	return fmt.Errorf("the certificate is for %v and %q, and was shown by %s", cert.IPAddresses, cert.DNSNames, host)
}
