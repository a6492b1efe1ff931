package options

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// URLs is a flag's list of URLs, sorted and without repetitions, as etcd keeps
// them. Setting it replaces the list; the empty string empties it.
type URLs []url.URL

// Set implements pflag.Value.
func (us *URLs) Set(s string) error {
	if s == "" {
		*us = nil
		return nil
	}
	urls, err := parseURLs(s)
	if err != nil {
		return err
	}
	*us = urls
	return nil
}

// String implements pflag.Value.
func (us *URLs) String() string { return strings.Join(Strings(*us), ",") }

// Type implements pflag.Value.
func (us *URLs) Type() string { return "urls" }

// list returns a copy that the caller may keep.
func (us *URLs) list() []url.URL { return slices.Clone(*us) }

// checkBind returns an error for every URL that cannot be listened on: names
// are not resolved, but for localhost.
func (us *URLs) checkBind(flag string) []error {
	var errs []error
	for _, u := range *us {
		if host := u.Hostname(); !isUnix(u) && host != "localhost" && net.ParseIP(host) == nil {
			errs = append(errs, fmt.Errorf("--%s: expected IP in URL for binding (%s)", flag, u.String()))
		}
	}
	return errs
}

// checkAdvertised returns an error for every URL that nobody could connect to.
func (us *URLs) checkAdvertised(flag string) []error {
	var errs []error
	for _, u := range *us {
		if !isUnix(u) && u.Hostname() == "" {
			errs = append(errs, fmt.Errorf("--%s: unexpected empty host (%s)", flag, u.String()))
		}
	}
	return errs
}

// Strings writes each of the URLs.
func Strings(urls []url.URL) []string {
	list := make([]string, 0, len(urls))
	for _, u := range urls {
		list = append(list, u.String())
	}
	return list
}

// Address returns what net.Listen takes for u.
func Address(u url.URL) (network, address string) {
	if isUnix(u) {
		return "unix", u.Host + u.Path // unix://relative and unix:///absolute
	}
	return "tcp", u.Host
}

// Secure reports whether u asks for TLS.
func Secure(u url.URL) bool { return u.Scheme == "https" || u.Scheme == "unixs" }

func isUnix(u url.URL) bool { return u.Scheme == "unix" || u.Scheme == "unixs" }

func mustURLs(s string) URLs {
	urls, err := parseURLs(s)
	if err != nil {
		panic(err)
	}
	return urls
}

func parseURLs(s string) (URLs, error) {
	var urls URLs
	for part := range strings.SplitSeq(s, ",") {
		u, err := parseURL(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		urls = append(urls, *u)
	}
	slices.SortFunc(urls, func(a, b url.URL) int { return strings.Compare(a.String(), b.String()) })
	return slices.CompactFunc(urls, func(a, b url.URL) bool { return a.String() == b.String() }), nil
}

func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "http", "https":
		if _, _, err := net.SplitHostPort(u.Host); err != nil {
			return nil, fmt.Errorf("URL address does not have the form \"host:port\": %s", s)
		}
		if u.Path != "" {
			return nil, fmt.Errorf("URL must not contain a path: %s", s)
		}
	case "unix", "unixs":
		if u.Host+u.Path == "" {
			return nil, errors.New("URL must contain the path of a socket: " + s)
		}
	default:
		return nil, fmt.Errorf("URL scheme must be http, https, unix, or unixs: %s", s)
	}
	return u, nil
}
