package app

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/pebbledash/pebbledash/gateway/backupclient"
)

// clientFlags are etcdctl's, for commands that ask a member: where it is, and who asks.
type clientFlags struct {
	endpoints             []string
	caCert, cert, key     string
	serverName            string
	insecureSkipTLSVerify bool
	user, password        string
	dialTimeout           time.Duration
}

// clientEnv begins the names of the variables that stand for flags, which are etcdctl's.
const clientEnv = "ETCDCTL_"

func (f *clientFlags) add(to *pflag.FlagSet) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.StringSliceVar(&f.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "Where members are; the first that answers is asked.")
	fs.StringVar(&f.caCert, "cacert", "", "Authorities that the server's certificate is checked with.")
	fs.StringVar(&f.cert, "cert", "", "Certificate of the client.")
	fs.StringVar(&f.key, "key", "", "Key of --cert.")
	fs.StringVar(&f.serverName, "tls-server-name", "", "Name that the server's certificate is for, if it is not that of the endpoint.")
	fs.BoolVar(&f.insecureSkipTLSVerify, "insecure-skip-tls-verify", false, "Believe any certificate; for tests.")
	fs.StringVar(&f.user, "user", "", "User, as name[:password]; asks for the password on a terminal if none is given.")
	fs.StringVar(&f.password, "password", "", "Password of --user, which then has none.")
	fs.DurationVar(&f.dialTimeout, "dial-timeout", 5*time.Second, "How long an endpoint may take to answer.")
	fs.VisitAll(func(flag *pflag.Flag) {
		flag.Usage += " [$" + clientEnv + envName(flag.Name) + "]"
	})
	to.AddFlagSet(fs)
}

func envName(flag string) string { return strings.ToUpper(strings.ReplaceAll(flag, "-", "_")) }

// fromEnv sets the flags that are not given from etcdctl's variables.
func (f *clientFlags) fromEnv(flags *pflag.FlagSet, environ []string) error {
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(clientFlags).add(own)
	var errs []error
	own.VisitAll(func(flag *pflag.Flag) {
		prefix := clientEnv + envName(flag.Name) + "="
		for _, e := range environ {
			if value, ok := strings.CutPrefix(e, prefix); ok && value != "" && !flags.Changed(flag.Name) {
				if err := flags.Set(flag.Name, value); err != nil {
					errs = append(errs, usageError{fmt.Errorf("%s: %w", strings.TrimSuffix(prefix, "="), err)})
				}
			}
		}
	})
	return errors.Join(errs...)
}

// config is what the flags say.
func (f *clientFlags) config(ask io.Writer) (backupclient.Config, error) {
	cfg := backupclient.Config{Endpoints: f.endpoints, DialTimeout: f.dialTimeout}
	var err error
	if cfg.TLS, err = f.tls(); err != nil {
		return cfg, err
	}
	cfg.User, cfg.Password = f.user, f.password
	if f.user == "" || f.password != "" {
		return cfg, nil
	}
	var given bool
	if cfg.User, cfg.Password, given = strings.Cut(f.user, ":"); given {
		return cfg, nil
	}
	stdin := int(os.Stdin.Fd())
	if !term.IsTerminal(stdin) {
		return cfg, usageError{fmt.Errorf("--user=%s has no password: give --password, or --user=name:password", f.user)}
	}
	fmt.Fprint(ask, "Password: ")
	password, err := term.ReadPassword(stdin)
	fmt.Fprintln(ask)
	cfg.Password = string(password)
	return cfg, err
}

// tls is nil if no flag says anything of it.
func (f *clientFlags) tls() (*tls.Config, error) {
	if (f.cert == "") != (f.key == "") {
		return nil, usageError{errors.New("--cert and --key are given together, or neither")}
	}
	if f.caCert == "" && f.cert == "" && f.serverName == "" && !f.insecureSkipTLSVerify {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.serverName, InsecureSkipVerify: f.insecureSkipTLSVerify}
	if f.caCert != "" {
		content, err := os.ReadFile(f.caCert)
		if err != nil {
			return nil, fmt.Errorf("--cacert: %w", err)
		}
		if cfg.RootCAs = x509.NewCertPool(); !cfg.RootCAs.AppendCertsFromPEM(content) {
			return nil, fmt.Errorf("--cacert: there is no certificate in %s", f.caCert)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("--cert and --key: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
