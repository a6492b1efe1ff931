package member

import (
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A cluster that is made from flags gets its identifiers from them, the same as
// etcd's, so that every member finds them for itself, and tools that know them
// from etcd see no change:
//
//	member  = sha1(peer URLs, sorted, joined without a separator
//	               + cluster token)[:8]
//	cluster = sha1(member identifiers, sorted, 8 bytes each)[:8]
//
// all big-endian. A member that is added later has the time of its adding, in
// decimal seconds, in place of the token. Once made they are only read: from the
// data directory and from core's state. They are part of the file format, and
// should not be changed.

// InitialMember is one member of an InitialCluster.
type InitialMember struct {
	ID       uint64
	Name     string
	PeerURLs []string // normalized and sorted
}

// InitialCluster is what --initial-cluster and --initial-cluster-token say.
type InitialCluster struct {
	ID      uint64
	Members []InitialMember // sorted by name
}

// ParseInitialCluster reads the value of --initial-cluster, pairs of
// name=peerURL with commas between. A name may come more than once, each time
// with another URL. All that etcd would refuse is refused.
func ParseInitialCluster(value, token string) (InitialCluster, error) {
	byName := map[string][]string{}
	for pair := range strings.SplitSeq(value, ",") {
		if pair == "" {
			continue
		}
		name, peerURL, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return InitialCluster{}, fmt.Errorf("error setting up initial cluster: %q is not of the form name=peerURL", pair)
		}
		byName[name] = append(byName[name], peerURL)
	}
	if len(byName) == 0 {
		return InitialCluster{}, errors.New("initial cluster unset")
	}

	var c InitialCluster
	owner := map[string]bool{}
	for name, given := range byName {
		urls, err := ParseURLs(given)
		if err != nil {
			return InitialCluster{}, fmt.Errorf("error setting up initial cluster: member %q: %w", name, err)
		}
		for _, u := range urls {
			if owner[u] {
				return InitialCluster{}, fmt.Errorf("initial cluster %s has duplicate url %s", value, u)
			}
			owner[u] = true
		}
		c.Members = append(c.Members, InitialMember{ID: memberID(urls, token), Name: name, PeerURLs: urls})
	}
	slices.SortFunc(c.Members, func(a, b InitialMember) int { return cmp.Compare(a.Name, b.Name) })

	ids := make([]uint64, len(c.Members))
	for i, m := range c.Members {
		// Different URLs may be the same when joined. 0 is raft's word for nobody.
		if j := slices.Index(ids[:i], m.ID); j >= 0 || m.ID == 0 {
			return InitialCluster{}, fmt.Errorf("error setting up initial cluster: the id %s of member %q can't be used; change its peer URLs", FormatID(m.ID), m.Name)
		}
		ids[i] = m.ID
	}
	c.ID = ClusterID(ids)
	return c, nil
}

// Member returns the member of that name.
func (c InitialCluster) Member(name string) (InitialMember, error) {
	for _, m := range c.Members {
		if m.Name == name {
			return m, nil
		}
	}
	return InitialMember{}, fmt.Errorf("couldn't find local name %q in the initial cluster configuration", name)
}

// Resolver turns host:port into ip:port. [ResolveTCP] is the system's.
type Resolver func(ctx context.Context, hostPort string) (string, error)

// ResolveTCP asks the system's resolver.
func ResolveTCP(ctx context.Context, hostPort string) (string, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return "", err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return "", err
	}
	// As net.ResolveTCPAddr: IPv4 if there is one.
	best := ips[0]
	for _, ip := range ips {
		if ip.Unmap().Is4() {
			best = ip
			break
		}
	}
	return net.JoinHostPort(best.Unmap().String(), port), nil
}

// CheckAdvertised checks that the cluster has a member of that name with just
// these --initial-advertise-peer-urls. Host names are resolved only if the URLs
// differ as they are written.
func (c InitialCluster) CheckAdvertised(ctx context.Context, name string, advertised []string, resolve Resolver) error {
	m, err := c.Member(name)
	if err != nil {
		return err
	}
	advertised, err = ParseURLs(advertised)
	if err != nil {
		return fmt.Errorf("--initial-advertise-peer-urls: %w", err)
	}
	cause := sameEndpoints(ctx, m.PeerURLs, advertised, resolve)
	if cause == nil {
		return nil
	}
	missing := func(from, in []string) (out []string) {
		for _, u := range in {
			if !slices.Contains(from, u) {
				out = append(out, u)
			}
		}
		return out
	}
	named := func(urls []string) string {
		pairs := make([]string, len(urls))
		for i, u := range urls {
			pairs[i] = name + "=" + u
		}
		return strings.Join(pairs, ",")
	}
	if urls := missing(advertised, m.PeerURLs); len(urls) > 0 {
		return fmt.Errorf("--initial-cluster has %s but missing from --initial-advertise-peer-urls=%s (%w)",
			named(urls), strings.Join(advertised, ","), cause)
	}
	return fmt.Errorf("--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s (%w)",
		strings.Join(missing(m.PeerURLs, advertised), ","), named(m.PeerURLs), cause)
}

// sameEndpoints returns an error that says how two lists of URLs differ, and
// nil if they don't.
func sameEndpoints(ctx context.Context, a, b []string, resolve Resolver) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d URLs against %d", len(a), len(b))
	}
	plain := func(u *url.URL) (string, error) { return normalizeHost(u.Host), nil }
	if differ(a, b, plain) == nil {
		return nil
	}
	return differ(a, b, func(u *url.URL) (string, error) {
		if strings.HasPrefix(u.Scheme, "unix") || u.Hostname() == "localhost" {
			return u.Host, nil
		}
		addr, err := resolve(ctx, u.Host)
		if err != nil {
			return "", fmt.Errorf("failed to resolve %q: %w", u, err)
		}
		return normalizeHost(addr), nil
	})
}

// differ compares lists of URLs whose hosts are written as host says.
func differ(a, b []string, host func(*url.URL) (string, error)) error {
	var lists [2][]string
	for i, urls := range [][]string{a, b} {
		for _, s := range urls {
			u, err := url.Parse(s)
			if err != nil {
				return err
			}
			h, err := host(u)
			if err != nil {
				return err
			}
			lists[i] = append(lists[i], u.Scheme+"://"+h+u.Path)
		}
		slices.Sort(lists[i])
	}
	for i := range lists[0] {
		if lists[0][i] != lists[1][i] {
			return fmt.Errorf("%q is not %q", lists[0][i], lists[1][i])
		}
	}
	return nil
}

// normalizeHost writes an IP address in host:port in its shortest form.
func normalizeHost(hostPort string) string {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return hostPort
	}
	if ip := net.ParseIP(host); ip != nil {
		host = ip.String()
	}
	return net.JoinHostPort(host, port)
}

// ParseURLs checks URLs of listeners and members as etcd does, and returns them
// normalized and sorted.
func ParseURLs(given []string) ([]string, error) {
	if len(given) == 0 {
		return nil, errors.New("no valid URLs given")
	}
	urls := make([]string, len(given))
	for i, s := range given {
		s = strings.TrimSpace(s)
		u, err := url.Parse(s)
		if err != nil {
			return nil, err
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil {
				return nil, fmt.Errorf(`URL address does not have the form "host:port": %s`, s)
			}
			if u.Path != "" {
				return nil, fmt.Errorf("URL must not contain a path: %s", s)
			}
		case "unix", "unixs":
		default:
			return nil, fmt.Errorf("URL scheme must be http, https, unix, or unixs: %q", s)
		}
		urls[i] = u.String()
	}
	slices.Sort(urls)
	return urls, nil
}

// addedMemberID returns the identifier of a member that is added, at now, to a
// cluster that is there. peerURLs must be as ParseURLs returns them.
func addedMemberID(peerURLs []string, now time.Time) uint64 {
	return memberID(peerURLs, strconv.FormatInt(now.Unix(), 10))
}

// memberID hashes the URLs, as ParseURLs returns them, with the cluster token or
// the time.
func memberID(peerURLs []string, suffix string) uint64 {
	return hashID([]byte(strings.Join(slices.Sorted(slices.Values(peerURLs)), "") + suffix))
}

// ClusterID returns the identifier of a cluster that is being made of members.
func ClusterID(members []uint64) uint64 {
	var b []byte
	for _, id := range slices.Sorted(slices.Values(members)) {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	return hashID(b)
}

func hashID(b []byte) uint64 {
	sum := sha1.Sum(b)
	return binary.BigEndian.Uint64(sum[:8])
}

// FormatID returns an identifier as etcd writes it.
func FormatID(id uint64) string { return strconv.FormatUint(id, 16) }
