package options

import (
	"errors"
	"net/url"
	"slices"

	"github.com/spf13/pflag"
)

// SecurityOptions are about TLS.
type SecurityOptions struct {
	CertFile       string
	KeyFile        string
	TrustedCAFile  string
	ClientCertAuth bool

	PeerCertFile       string
	PeerKeyFile        string
	PeerTrustedCAFile  string
	PeerClientCertAuth bool
}

// AddFlags adds the section's flags to fs.
func (o *SecurityOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.CertFile, "cert-file", o.CertFile, "Certificate for serving clients, in PEM; read again when it changes.")
	fs.StringVar(&o.KeyFile, "key-file", o.KeyFile, "Private key of the certificate.")
	fs.StringVar(&o.TrustedCAFile, "trusted-ca-file", o.TrustedCAFile,
		"Authorities that sign clients' certificates; with it, every client must have one.")
	fs.BoolVar(&o.ClientCertAuth, "client-cert-auth", o.ClientCertAuth,
		"Demand a certificate of every client; needs --trusted-ca-file.")
	fs.StringVar(&o.PeerCertFile, "peer-cert-file", o.PeerCertFile,
		"Certificate for serving other members and for connecting to them, in PEM; read again when it changes.")
	fs.StringVar(&o.PeerKeyFile, "peer-key-file", o.PeerKeyFile, "Private key of that certificate.")
	fs.StringVar(&o.PeerTrustedCAFile, "peer-trusted-ca-file", o.PeerTrustedCAFile,
		"Authorities that sign other members' certificates; with it, every one that connects must have one.")
	fs.BoolVar(&o.PeerClientCertAuth, "peer-client-cert-auth", o.PeerClientCertAuth,
		"Demand a certificate of every member that connects; needs --peer-trusted-ca-file.")
}

// Validate returns everything that is wrong.
func (o *SecurityOptions) Validate() []error {
	var errs []error
	if (o.CertFile == "") != (o.KeyFile == "") {
		errs = append(errs, errors.New("--cert-file and --key-file must be given together"))
	}
	if o.ClientCertAuth && o.TrustedCAFile == "" {
		errs = append(errs, errors.New("--client-cert-auth needs --trusted-ca-file"))
	}
	if o.TrustedCAFile != "" && o.CertFile == "" {
		errs = append(errs, errors.New("--trusted-ca-file has no effect without --cert-file and --key-file"))
	}
	if (o.PeerCertFile == "") != (o.PeerKeyFile == "") {
		errs = append(errs, errors.New("--peer-cert-file and --peer-key-file must be given together"))
	}
	if o.PeerClientCertAuth && o.PeerTrustedCAFile == "" {
		errs = append(errs, errors.New("--peer-client-cert-auth needs --peer-trusted-ca-file"))
	}
	if o.PeerTrustedCAFile != "" && o.PeerCertFile == "" {
		errs = append(errs, errors.New("--peer-trusted-ca-file has no effect without --peer-cert-file and --peer-key-file"))
	}
	return errs
}

// applyTo comes after all that listens.
func (o *SecurityOptions) applyTo(c *CompletedConfig) {
	c.TLS = TLSConfig{o.CertFile, o.KeyFile, o.TrustedCAFile, o.ClientCertAuth}
	c.PeerTLS = TLSConfig{o.PeerCertFile, o.PeerKeyFile, o.PeerTrustedCAFile, o.PeerClientCertAuth}
	clients := slices.Clone(c.ListenClientURLs)
	for _, u := range c.GroupListenClientURLs {
		clients = append(clients, u.URL)
	}
	warnOfPlainText(c, clients, c.TLS, "--cert-file")
	warnOfPlainText(c, c.ListenPeerURLs, c.PeerTLS, "--peer-cert-file")
}

func warnOfPlainText(c *CompletedConfig, urls []url.URL, tls TLSConfig, flag string) {
	for _, u := range urls {
		if tls.CertFile != "" && !Secure(u) {
			c.Warnings = append(c.Warnings, "serving "+u.String()+" in plain text although "+flag+" is given")
		}
	}
}
