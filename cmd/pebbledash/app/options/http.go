package options

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// all stands for every origin, and for every host.
const all = "*"

// HTTPOptions are about what the clients' ports serve besides gRPC, and to whom.
type HTTPOptions struct {
	JSON          bool
	CORS          string
	HostWhitelist string
}

func newHTTPOptions() *HTTPOptions {
	return &HTTPOptions{JSON: true, CORS: all, HostWhitelist: all}
}

// AddFlags adds the section's flags to fs.
func (o *HTTPOptions) AddFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&o.JSON, "enable-grpc-gateway", o.JSON, "Serve the API as JSON, below /v3/.")
	fs.StringVar(&o.CORS, "cors", o.CORS,
		"Origins whose pages a browser lets use the API, as scheme://host:port, separated by commas; empty or * for all.")
	fs.StringVar(&o.HostWhitelist, "host-whitelist", o.HostWhitelist,
		"Names by which a client may ask for HTTP without TLS, separated by commas; empty or * for all.")
}

// Validate returns everything that is wrong.
func (o *HTTPOptions) Validate() []error {
	if _, err := o.origins(); err != nil {
		return []error{fmt.Errorf("--cors: %w", err)}
	}
	return nil
}

func (o *HTTPOptions) origins() ([]string, error) {
	if o.CORS == "" || o.CORS == all {
		return nil, nil
	}
	urls, err := parseURLs(o.CORS)
	return Strings(urls), err
}

func (o *HTTPOptions) hosts() []string {
	hosts := strings.Split(o.HostWhitelist, ",")
	if o.HostWhitelist == "" || slices.Contains(hosts, all) {
		return nil
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

func (o *HTTPOptions) applyTo(c *CompletedConfig) {
	c.EnableGRPCGateway = o.JSON
	c.CORS, _ = o.origins() // Validate has seen the error
	c.HostWhitelist = o.hosts()
}
