package options

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

const (
	clusterStateNew      = "new"
	clusterStateExisting = "existing"
)

// ClusterOptions are about the cluster that the member forms or joins.
type ClusterOptions struct {
	AdvertisePeerURLs URLs
	InitialCluster    string
	ClusterState      string
	ClusterToken      string
}

func newClusterOptions() *ClusterOptions {
	return &ClusterOptions{
		AdvertisePeerURLs: mustURLs("http://localhost:2380"),
		ClusterState:      clusterStateNew,
		ClusterToken:      "etcd-cluster",
	}
}

// AddFlags adds the section's flags to fs.
func (o *ClusterOptions) AddFlags(fs *pflag.FlagSet) {
	fs.Var(&o.AdvertisePeerURLs, "initial-advertise-peer-urls", "This member's URLs for other members.")
	fs.StringVar(&o.InitialCluster, "initial-cluster", o.InitialCluster,
		"Members of the cluster at its start, as name=url,name=url. One member for now. (default ${name}=${initial-advertise-peer-urls})")
	fs.StringVar(&o.ClusterState, "initial-cluster-state", o.ClusterState,
		"\"new\", or \"existing\" to join a cluster. Of no meaning once the data directory holds a member.")
	fs.StringVar(&o.ClusterToken, "initial-cluster-token", o.ClusterToken,
		"Tells clusters apart that were started with the same URLs.")
}

// Complete fills in what follows from other flags.
func (o *ClusterOptions) Complete(name string) {
	if o.InitialCluster == "" {
		o.InitialCluster = initialClusterOf(name, o.AdvertisePeerURLs)
	}
}

// Validate returns everything that is wrong.
func (o *ClusterOptions) Validate(name string) []error {
	var errs []error
	if len(o.AdvertisePeerURLs) == 0 {
		errs = append(errs, errors.New("--initial-advertise-peer-urls must not be empty"))
	}
	errs = append(errs, o.AdvertisePeerURLs.checkAdvertised("initial-advertise-peer-urls")...)
	if o.ClusterState != clusterStateNew && o.ClusterState != clusterStateExisting {
		errs = append(errs, fmt.Errorf("--initial-cluster-state must be %q or %q, not %q",
			clusterStateNew, clusterStateExisting, o.ClusterState))
	}
	return append(errs, o.validateInitialCluster(name)...)
}

func (o *ClusterOptions) validateInitialCluster(name string) []error {
	if len(o.AdvertisePeerURLs) == 0 {
		return nil // and so --initial-cluster cannot be right
	}
	members, err := parseInitialCluster(o.InitialCluster)
	if err != nil {
		return []error{fmt.Errorf("--initial-cluster %q: %w", o.InitialCluster, err)}
	}
	if len(members) > 1 {
		return []error{fmt.Errorf("--initial-cluster names %d members (%s), but only clusters of one member are supported yet",
			len(members), strings.Join(slices.Sorted(maps.Keys(members)), ", "))}
	}
	mine, ok := members[name]
	if !ok {
		return []error{fmt.Errorf("--initial-cluster %q does not name this member, %q (--name)", o.InitialCluster, name)}
	}
	if mine.String() != o.AdvertisePeerURLs.String() {
		return []error{fmt.Errorf("--initial-cluster gives %q the URLs %s, but --initial-advertise-peer-urls has %s",
			name, mine.String(), o.AdvertisePeerURLs.String())}
	}
	return nil
}

func (o *ClusterOptions) applyTo(c *CompletedConfig) {
	c.AdvertisePeerURLs = o.AdvertisePeerURLs.list()
	c.InitialCluster = initialClusterOf(c.Name, o.AdvertisePeerURLs)
	c.InitialClusterToken = o.ClusterToken
	c.NewCluster = o.ClusterState == clusterStateNew
}

func initialClusterOf(name string, urls URLs) string {
	var parts []string
	for _, u := range urls {
		parts = append(parts, name+"="+u.String())
	}
	return strings.Join(parts, ",")
}

// parseInitialCluster understands "name=url,name=url", where a name that stands
// more than once has that many URLs.
func parseInitialCluster(s string) (map[string]URLs, error) {
	raw := map[string][]string{}
	for part := range strings.SplitSeq(s, ",") {
		name, u, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%q is not of the form name=url", part)
		}
		raw[name] = append(raw[name], u)
	}
	members := map[string]URLs{}
	for name, list := range raw {
		urls, err := parseURLs(strings.Join(list, ","))
		if err != nil {
			return nil, err
		}
		members[name] = urls
	}
	return members, nil
}
