package options

import (
	"errors"

	"github.com/spf13/pflag"
)

// SecurityOptions are about TLS.
type SecurityOptions struct {
	CertFile       string
	KeyFile        string
	TrustedCAFile  string
	ClientCertAuth bool
}

// AddFlags adds the section's flags to fs.
func (o *SecurityOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.CertFile, "cert-file", o.CertFile, "Certificate for serving clients, in PEM; read again when it changes.")
	fs.StringVar(&o.KeyFile, "key-file", o.KeyFile, "Private key of the certificate.")
	fs.StringVar(&o.TrustedCAFile, "trusted-ca-file", o.TrustedCAFile,
		"Authorities that sign clients' certificates; with it, every client must have one.")
	fs.BoolVar(&o.ClientCertAuth, "client-cert-auth", o.ClientCertAuth,
		"Demand a certificate of every client; needs --trusted-ca-file.")
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
	return errs
}

func (o *SecurityOptions) applyTo(c *CompletedConfig) {
	c.TLS = TLSConfig{CertFile: o.CertFile, KeyFile: o.KeyFile, TrustedCAFile: o.TrustedCAFile}
	if o.CertFile == "" {
		return
	}
	for _, u := range c.ListenClientURLs {
		if !Secure(u) {
			c.Warnings = append(c.Warnings, "serving "+u.String()+" in plain text although --cert-file is given")
		}
	}
}
