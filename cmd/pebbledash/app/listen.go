package app

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
	"github.com/pebbledash/pebbledash/gateway"
)

// Listener is an open socket of the server. Where its URL asks for TLS, the
// connections that it accepts speak it already, and have agreed on h2 or
// http/1.1 if the client asked.
type Listener struct {
	net.Listener
	// URL is the one from the command line; a port of 0 is still 0.
	URL url.URL
	// Group is the name of the group that a group's listener is for; else empty.
	Group string
}

// listen opens a socket for each URL, or for none. tlsConfig may be nil if no
// URL asks for TLS.
func listen(urls []url.URL, tlsConfig *tls.Config) ([]Listener, error) {
	var opened []Listener
	for _, u := range urls {
		l, err := listenOne(u)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot listen on %s: %w", u.String(), err), closeAll(opened))
		}
		if options.Secure(u) {
			l = tls.NewListener(l, gateway.ServerTLS(tlsConfig))
		}
		opened = append(opened, Listener{Listener: l, URL: u})
	}
	return opened, nil
}

// listenForGroups is listen for groups' URLs.
func listenForGroups(urls []options.GroupURL, tlsConfig *tls.Config) ([]Listener, error) {
	plain := make([]url.URL, 0, len(urls))
	for _, u := range urls {
		plain = append(plain, u.URL)
	}
	opened, err := listen(plain, tlsConfig)
	for i := range opened {
		opened[i].Group = urls[i].Group
	}
	return opened, err
}

func listenOne(u url.URL) (net.Listener, error) {
	network, address := options.Address(u)
	if network == "unix" {
		if err := removeStaleSocket(address); err != nil {
			return nil, err
		}
	}
	return net.Listen(network, address)
}

// removeStaleSocket removes what a process left behind that was killed. A
// socket on which somebody answers is left alone.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket", path)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return fmt.Errorf("%s is in use", path)
	}
	return os.Remove(path)
}

// closeAll closes the listeners. One that is closed already is no error.
func closeAll(ls []Listener) error {
	var errs []error
	for _, l := range ls {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
