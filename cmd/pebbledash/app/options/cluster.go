package options

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/pebbledash/pebbledash/storage/member"
)

const (
	clusterStateNew      = "new"
	clusterStateExisting = "existing"

	// maxMembers is what etcd recommends at most: each write waits for more than
	// half of them.
	maxMembers = 7
)

// ClusterOptions are about the cluster that the member forms or joins.
type ClusterOptions struct {
	AdvertisePeerURLs URLs
	InitialCluster    string
	ClusterState      string
	ClusterToken      string

	ForceNewCluster     bool
	StrictReconfigCheck bool
	MaxLearners         int
}

func newClusterOptions() *ClusterOptions {
	return &ClusterOptions{
		AdvertisePeerURLs: mustURLs("http://localhost:2380"),
		ClusterState:      clusterStateNew,
		ClusterToken:      "etcd-cluster",

		StrictReconfigCheck: true,
		MaxLearners:         1,
	}
}

// AddFlags adds the section's flags to fs.
func (o *ClusterOptions) AddFlags(fs *pflag.FlagSet) {
	fs.Var(&o.AdvertisePeerURLs, "initial-advertise-peer-urls", "This member's URLs for other members.")
	fs.StringVar(&o.InitialCluster, "initial-cluster", o.InitialCluster,
		"Members of the cluster at its start, as name=url,name=url; up to 7. (default ${name}=${initial-advertise-peer-urls})")
	fs.StringVar(&o.ClusterState, "initial-cluster-state", o.ClusterState,
		"\"new\", or \"existing\" to join a cluster. Of no meaning once the data directory holds a member.")
	fs.StringVar(&o.ClusterToken, "initial-cluster-token", o.ClusterToken,
		"Tells clusters apart that were started with the same URLs.")
	fs.BoolVar(&o.ForceNewCluster, "force-new-cluster", o.ForceNewCluster,
		"Make this member the only one of its cluster, when the others are lost for good: they must never be started again. Give it for one start.")
	fs.BoolVar(&o.StrictReconfigCheck, "strict-reconfig-check", o.StrictReconfigCheck,
		"Refuse changes of the members that would cost the quorum.")
	fs.IntVar(&o.MaxLearners, "max-learners", o.MaxLearners, "Most members that do not vote.")
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
	if o.MaxLearners < 0 || o.MaxLearners > maxMembers {
		errs = append(errs, fmt.Errorf("--max-learners must be between 0 and %d, not %d", maxMembers, o.MaxLearners))
	}
	return append(errs, o.validateInitialCluster(name)...)
}

func (o *ClusterOptions) validateInitialCluster(name string) []error {
	if len(o.AdvertisePeerURLs) == 0 || name == "" {
		return nil // and so --initial-cluster cannot be right
	}
	initial, err := member.ParseInitialCluster(o.InitialCluster, o.ClusterToken)
	if err != nil {
		return []error{fmt.Errorf("--initial-cluster: %w", err)}
	}
	if len(initial.Members) > maxMembers {
		return []error{fmt.Errorf("--initial-cluster names %d members; a cluster can have %d, and works best with 3 or 5",
			len(initial.Members), maxMembers)}
	}
	if _, err := initial.Member(name); err != nil {
		return []error{fmt.Errorf("--initial-cluster %q does not name this member, %q (--name)", o.InitialCluster, name)}
	}
	return nil
}

func (o *ClusterOptions) applyTo(c *CompletedConfig) {
	c.AdvertisePeerURLs = o.AdvertisePeerURLs.list()
	c.InitialCluster = o.InitialCluster
	if initial, err := member.ParseInitialCluster(o.InitialCluster, o.ClusterToken); err == nil {
		c.InitialCluster = writeInitialCluster(initial)
	}
	c.InitialClusterToken = o.ClusterToken
	c.NewCluster = o.ClusterState == clusterStateNew
	c.ForceNewCluster = o.ForceNewCluster
	c.StrictReconfigCheck = o.StrictReconfigCheck
	c.MaxLearners = o.MaxLearners
}

func initialClusterOf(name string, urls URLs) string {
	var parts []string
	for _, u := range urls {
		parts = append(parts, name+"="+u.String())
	}
	return strings.Join(parts, ",")
}

// writeInitialCluster writes all members, by name, each with its URLs in order.
func writeInitialCluster(c member.InitialCluster) string {
	var parts []string
	for _, m := range c.Members {
		for _, u := range m.PeerURLs {
			parts = append(parts, m.Name+"="+u)
		}
	}
	return strings.Join(parts, ",")
}
