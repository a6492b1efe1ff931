package options

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"

	"github.com/spf13/pflag"

	"github.com/pebbledash/pebbledash/gateway/serving"
)

// SecurityOptions are about TLS.
type SecurityOptions struct {
	Client, Peer sideOptions

	// ValidityYears is for how long a certificate holds that the member makes.
	ValidityYears uint
	MinVersion    string
	MaxVersion    string
	CipherSuites  []string
}

// sideOptions are those that there are twice: for clients, and for other members.
type sideOptions struct {
	// prefix is that of the flags.
	prefix string

	CertFile       string
	KeyFile        string
	DialCertFile   string
	DialKeyFile    string
	TrustedCAFile  string
	ClientCertAuth bool
	CRLFile        string
	AllowedNames   []string
	AllowedHosts   []string
	AutoTLS        bool
	// SkipAddress is for members only.
	SkipAddress bool
}

func newSecurityOptions() *SecurityOptions {
	return &SecurityOptions{Peer: sideOptions{prefix: "peer-"}, ValidityYears: 1, MinVersion: tlsVersions[0].name}
}

// maxValidityYears keeps the end of a certificate's time in what can be written.
const maxValidityYears = 100

// tlsVersions are etcd's names, in order.
var tlsVersions = []struct {
	name    string
	version uint16
}{{"TLS1.2", tls.VersionTLS12}, {"TLS1.3", tls.VersionTLS13}}

// AddFlags adds the section's flags to fs.
func (o *SecurityOptions) AddFlags(fs *pflag.FlagSet) {
	c, p := &o.Client, &o.Peer
	fs.StringVar(&c.CertFile, "cert-file", c.CertFile, "Certificate for serving clients, in PEM. It and the files below are read again when they change.")
	fs.StringVar(&c.KeyFile, "key-file", c.KeyFile, "Private key of the certificate.")
	fs.StringVar(&c.TrustedCAFile, "trusted-ca-file", c.TrustedCAFile,
		"Authorities that sign clients' certificates; with it, every client must have one.")
	fs.BoolVar(&c.ClientCertAuth, "client-cert-auth", c.ClientCertAuth,
		"Demand a certificate of every client; needs --trusted-ca-file.")
	fs.StringVar(&c.CRLFile, "client-crl-file", c.CRLFile, "Clients' certificates that were revoked, as a list in PEM or DER.")
	fs.StringSliceVar(&c.AllowedNames, "client-cert-allowed-cn", c.AllowedNames,
		"Common names that clients' certificates may have, comma-separated; all if empty.")
	fs.StringSliceVar(&c.AllowedHosts, "client-cert-allowed-hostname", c.AllowedHosts,
		"Hosts of which a client's certificate must name one, comma-separated.")
	fs.StringVar(&c.DialCertFile, "client-cert-file", c.DialCertFile,
		"Accepted, but of no effect: it is what an etcd shows when it connects to itself.")
	fs.StringVar(&c.DialKeyFile, "client-key-file", c.DialKeyFile, "Private key of --client-cert-file.")
	fs.BoolVar(&c.AutoTLS, "auto-tls", c.AutoTLS,
		"Serve clients with a certificate that the member makes for itself, and keeps below --data-dir.")

	fs.StringVar(&p.CertFile, "peer-cert-file", p.CertFile,
		"Certificate for serving other members and for connecting to them, in PEM.")
	fs.StringVar(&p.KeyFile, "peer-key-file", p.KeyFile, "Private key of that certificate.")
	fs.StringVar(&p.DialCertFile, "peer-client-cert-file", p.DialCertFile,
		"Certificate for connecting to other members. (default ${peer-cert-file})")
	fs.StringVar(&p.DialKeyFile, "peer-client-key-file", p.DialKeyFile, "Private key of --peer-client-cert-file.")
	fs.StringVar(&p.TrustedCAFile, "peer-trusted-ca-file", p.TrustedCAFile,
		"Authorities that sign other members' certificates; with it, every one that connects must have one.")
	fs.BoolVar(&p.ClientCertAuth, "peer-client-cert-auth", p.ClientCertAuth,
		"Demand a certificate of every member that connects; needs --peer-trusted-ca-file.")
	fs.StringVar(&p.CRLFile, "peer-crl-file", p.CRLFile, "Members' certificates that were revoked, as a list in PEM or DER.")
	fs.StringSliceVar(&p.AllowedNames, "peer-cert-allowed-cn", p.AllowedNames,
		"Common names that members' certificates may have, comma-separated; all if empty.")
	fs.StringSliceVar(&p.AllowedHosts, "peer-cert-allowed-hostname", p.AllowedHosts,
		"Hosts of which a member's certificate must name one, comma-separated.")
	fs.BoolVar(&p.SkipAddress, "peer-skip-client-san-verification", p.SkipAddress,
		"Let a member connect from elsewhere than the addresses and names in its certificate.")
	fs.BoolVar(&p.AutoTLS, "peer-auto-tls", p.AutoTLS,
		"Encrypt what members say by certificates that each makes for itself, and keeps below --data-dir; nobody is verified by them.")

	fs.UintVar(&o.ValidityYears, "self-signed-cert-validity", o.ValidityYears,
		"Years for which a certificate of --auto-tls or --peer-auto-tls is made; once it has expired, a start makes another.")
	fs.StringVar(&o.MinVersion, "tls-min-version", o.MinVersion, "Oldest version of TLS that is spoken, \"TLS1.2\" or \"TLS1.3\".")
	fs.StringVar(&o.MaxVersion, "tls-max-version", o.MaxVersion, "Newest version of TLS that is spoken; empty for the newest there is.")
	fs.StringSliceVar(&o.CipherSuites, "cipher-suites", o.CipherSuites,
		"Cipher suites of TLS 1.2, comma-separated, by Go's names; Go's choice if empty.")
}

// Validate returns everything that is wrong.
func (o *SecurityOptions) Validate() []error {
	errs := append(o.Client.validate(), o.Peer.validate()...)
	if o.Peer.AutoTLS && o.Peer.CertFile == "" {
		if o.Peer.TrustedCAFile != "" {
			errs = append(errs, errors.New("--peer-trusted-ca-file cannot be used with --peer-auto-tls: no authority signs the certificates that members make"))
		}
		if o.Peer.DialCertFile != "" {
			errs = append(errs, errors.New("--peer-client-cert-file cannot be used with --peer-auto-tls: the certificate that a member makes is for both sides"))
		}
	}
	if (o.Client.AutoTLS || o.Peer.AutoTLS) && (o.ValidityYears == 0 || o.ValidityYears > maxValidityYears) {
		errs = append(errs, fmt.Errorf("--self-signed-cert-validity must be between 1 and %d years, not %d", maxValidityYears, o.ValidityYears))
	}
	minVersion, err := tlsVersion("tls-min-version", o.MinVersion)
	errs = appendError(errs, err)
	maxVersion, err := tlsVersion("tls-max-version", o.MaxVersion)
	errs = appendError(errs, err)
	if maxVersion != 0 && minVersion > maxVersion {
		errs = append(errs, fmt.Errorf("--tls-min-version %s is greater than --tls-max-version %s", o.MinVersion, o.MaxVersion))
	}
	if minVersion == tls.VersionTLS13 && len(o.CipherSuites) > 0 {
		errs = append(errs, errors.New("--cipher-suites cannot be configured when only TLS1.3 is enabled (--tls-min-version)"))
	}
	for _, name := range o.CipherSuites {
		if cipherSuite(name) == 0 {
			errs = append(errs, fmt.Errorf("--cipher-suites: unexpected TLS cipher suite %q", name))
		}
	}
	return errs
}

func (o *sideOptions) validate() []error {
	var errs []error
	complain := func(format string, flags ...any) {
		for i, flag := range flags {
			flags[i] = "--" + o.prefix + flag.(string)
		}
		errs = append(errs, fmt.Errorf(format, flags...))
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		complain("%s and %s must be given together", "cert-file", "key-file")
	}
	if (o.DialCertFile == "") != (o.DialKeyFile == "") {
		complain("%s and %s must be given together", "client-cert-file", "client-key-file")
	}
	if o.ClientCertAuth && o.TrustedCAFile == "" {
		complain("%s needs %s", "client-cert-auth", "trusted-ca-file")
	}
	if o.TrustedCAFile != "" && !o.hasCert() {
		complain("%s has no effect without %s and %s", "trusted-ca-file", "cert-file", "key-file")
	}
	if len(o.AllowedNames) > 0 && len(o.AllowedHosts) > 0 {
		complain("%s and %s cannot be given together", o.flag("cert-allowed-cn"), o.flag("cert-allowed-hostname"))
	}
	for _, f := range []struct {
		flag  string
		given bool
	}{
		{o.flag("crl-file"), o.CRLFile != ""},
		{o.flag("cert-allowed-cn"), len(o.AllowedNames) > 0},
		{o.flag("cert-allowed-hostname"), len(o.AllowedHosts) > 0},
	} {
		if f.given && o.TrustedCAFile == "" {
			complain("%s has no effect without %s", f.flag, "trusted-ca-file")
		}
	}
	return errs
}

// flag returns the name, without the prefix, of a flag about the certificates of
// who connects.
func (o *sideOptions) flag(name string) string {
	if o.prefix == "" {
		return "client-" + name
	}
	return name
}

// hasCert says whether there is, or will be, a certificate to serve with.
func (o *sideOptions) hasCert() bool { return o.CertFile != "" || o.AutoTLS }

// applyTo comes after all that listens.
func (o *SecurityOptions) applyTo(c *CompletedConfig) {
	c.TLS, c.PeerTLS = o.config(&o.Client), o.config(&o.Peer)
	c.TLS.DialCertFile, c.TLS.DialKeyFile = "", "" // nothing here connects to itself
	c.PeerTLS.CheckAddress = !o.Peer.SkipAddress
	c.ClientCertAuth = o.Client.ClientCertAuth
	c.AutoTLS, c.PeerAutoTLS = o.Client.AutoTLS, o.Peer.AutoTLS
	c.SelfSignedYears = int(o.ValidityYears)
	c.PeerTLS.SelfSigned = o.Peer.AutoTLS && o.Peer.CertFile == ""
	if o.Client.DialCertFile != "" {
		c.Warnings = append(c.Warnings, "--client-cert-file has no effect: this member does not connect to itself")
	}
	clients := slices.Clone(c.ListenClientURLs)
	for _, u := range c.GroupListenClientURLs {
		clients = append(clients, u.URL)
	}
	o.Client.warn(c, clients)
	o.Peer.warn(c, c.ListenPeerURLs)
}

func (o *SecurityOptions) config(side *sideOptions) serving.TLSConfig {
	c := serving.TLSConfig{
		CertFile: side.CertFile, KeyFile: side.KeyFile, DialCertFile: side.DialCertFile, DialKeyFile: side.DialKeyFile,
		TrustedCAFile: side.TrustedCAFile, CRLFile: side.CRLFile,
		AllowedNames: slices.Clone(side.AllowedNames), AllowedHosts: slices.Clone(side.AllowedHosts),
	}
	c.MinVersion, _ = tlsVersion("", o.MinVersion) // Validate has seen the errors
	c.MaxVersion, _ = tlsVersion("", o.MaxVersion)
	for _, name := range o.CipherSuites {
		c.CipherSuites = append(c.CipherSuites, cipherSuite(name))
	}
	return c
}

// warn tells of what was probably meant otherwise.
func (o *sideOptions) warn(c *CompletedConfig, urls []url.URL) {
	if o.AutoTLS && o.CertFile != "" {
		c.Warnings = append(c.Warnings, fmt.Sprintf("--%sauto-tls has no effect beside --%scert-file", o.prefix, o.prefix))
	}
	for _, u := range urls {
		switch {
		case Secure(u):
		case o.CertFile != "":
			c.Warnings = append(c.Warnings, fmt.Sprintf("serving %s in plain text although --%scert-file is given", u.String(), o.prefix))
		case o.AutoTLS:
			c.Warnings = append(c.Warnings, fmt.Sprintf("serving %s in plain text although --%sauto-tls is given", u.String(), o.prefix))
		}
	}
}

// tlsVersion returns what a flag's value means; 0 for the empty one.
func tlsVersion(flag, name string) (uint16, error) {
	if name == "" {
		return 0, nil
	}
	for _, v := range tlsVersions {
		if v.name == name {
			return v.version, nil
		}
	}
	return math.MaxUint16, fmt.Errorf("--%s: unexpected TLS version %q (must be one of: TLS1.2, TLS1.3)", flag, name)
}

// cipherSuite returns 0 for a name that there is not. Go's older names count too,
// as with etcd.
func cipherSuite(name string) uint16 {
	switch name {
	case "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305":
		name += "_SHA256"
	}
	for _, c := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if c.Name == name {
			return c.ID
		}
	}
	return 0
}

func appendError(errs []error, err error) []error {
	if err != nil {
		return append(errs, err)
	}
	return errs
}
