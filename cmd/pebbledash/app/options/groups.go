package options

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/pebbledash/pebbledash/storage/route"
)

// GroupOptions are about the raft groups that share the keys.
type GroupOptions struct {
	ResourceGroups string
	EtcdPrefix     string
	ListenURLs     GroupURLs
	SpreadLeaders  bool
	QuotaBytes     map[string]int64
}

func newGroupOptions() *GroupOptions {
	return &GroupOptions{
		ResourceGroups: route.DefaultResourceGroups,
		EtcdPrefix:     route.DefaultEtcdPrefix,
	}
}

// AddFlags adds the section's flags to fs.
func (o *GroupOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.ResourceGroups, "resource-groups", o.ResourceGroups,
		"Resources of Kubernetes that have a raft group of their own, as resource#group;group/resource#group. "+
			"Chosen when the cluster is bootstrapped, for good; empty for one group.")
	fs.StringVar(&o.EtcdPrefix, "etcd-prefix", o.EtcdPrefix,
		"kube-apiserver's --etcd-prefix, below which the resources of --resource-groups are.")
	fs.Var(&o.ListenURLs, "group-listen-client-urls",
		"Further URLs to listen on for clients, named for groups, as group=url,group=url; every key is served there. "+
			"For kube-apiserver's --etcd-servers-overrides. May be repeated.")
	fs.StringToInt64Var(&o.QuotaBytes, "group-quota-backend-bytes", nil,
		"Quotas of single groups, as group=bytes,group=bytes: when one is reached, only that group may not grow.")
	fs.BoolVar(&o.SpreadLeaders, "spread-leaders", o.SpreadLeaders,
		"Spread the leaders of the groups over the members, instead of all following core's.")
}

// Validate returns everything that is wrong.
func (o *GroupOptions) Validate() []error {
	var errs []error
	for _, u := range o.ListenURLs.list() {
		errs = append(errs, (&URLs{u.URL}).checkBind("group-listen-client-urls")...)
	}
	routes, err := o.routes()
	if err != nil {
		return append(errs, err)
	}
	var known []string
	for _, g := range routes.Groups() {
		known = append(known, g.Name)
	}
	for _, u := range o.ListenURLs.list() {
		if !slices.Contains(known, u.Group) {
			errs = append(errs, fmt.Errorf("--group-listen-client-urls: there is no group %q; --resource-groups makes %s",
				u.Group, strings.Join(known, ", ")))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.QuotaBytes)) {
		if !slices.Contains(known, name) {
			errs = append(errs, fmt.Errorf("--group-quota-backend-bytes: there is no group %q; --resource-groups makes %s",
				name, strings.Join(known, ", ")))
		} else if o.QuotaBytes[name] <= 0 {
			errs = append(errs, fmt.Errorf("--group-quota-backend-bytes: %s=%d must be more than 0", name, o.QuotaBytes[name]))
		}
	}
	return errs
}

func (o *GroupOptions) routes() (*route.Table, error) {
	return route.Parse(o.ResourceGroups, o.EtcdPrefix)
}

func (o *GroupOptions) applyTo(c *CompletedConfig) {
	c.ResourceGroups, c.EtcdPrefix = o.ResourceGroups, o.EtcdPrefix
	c.Routes, _ = o.routes() // Validate has seen the error
	c.GroupListenClientURLs = o.ListenURLs.list()
	c.SpreadLeaders = o.SpreadLeaders
	c.GroupQuotaBytes = o.QuotaBytes
}

// GroupURL is a URL to listen on for a group.
type GroupURL struct {
	Group string
	URL   url.URL
}

// String writes it as it is on the command line.
func (u GroupURL) String() string { return u.Group + "=" + u.URL.String() }

// GroupURLs is a flag's list of them, sorted and without repetitions. Setting it
// adds to the list; the empty string empties it.
type GroupURLs []GroupURL

// Set implements pflag.Value.
func (us *GroupURLs) Set(s string) error {
	if s == "" {
		*us = nil
		return nil
	}
	list := us.list()
	for part := range strings.SplitSeq(s, ",") {
		group, raw, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || group == "" {
			return fmt.Errorf("%q is not of the form group=url", part)
		}
		u, err := parseURL(raw)
		if err != nil {
			return err
		}
		list = append(list, GroupURL{group, *u})
	}
	slices.SortFunc(list, func(a, b GroupURL) int { return strings.Compare(a.String(), b.String()) })
	*us = slices.CompactFunc(list, func(a, b GroupURL) bool { return a.String() == b.String() })
	return nil
}

// String implements pflag.Value.
func (us *GroupURLs) String() string {
	var list []string
	for _, u := range *us {
		list = append(list, u.String())
	}
	return strings.Join(list, ",")
}

// Type implements pflag.Value.
func (us *GroupURLs) Type() string { return "group=urls" }

// list returns a copy that the caller may keep.
func (us *GroupURLs) list() []GroupURL { return slices.Clone(*us) }
