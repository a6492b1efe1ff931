package server

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

const (
	loopback = "127.0.0.1"

	// The ports a member may be given lie below those that Linux takes for
	// outgoing connections (32768 and up). A client that reconnects to a port
	// in that range while the member is down can be given the very same port
	// as its own; TCP then connects it to itself and the member cannot have
	// its port back.
	firstPort, endPort = 15000, 32000

	maxPortTries = 200
)

// freeAddrs returns n different loopback addresses, as host:port, on which
// nobody listens. They are not reserved: somebody else may take one before the
// caller does, which among 17,000 random ports is unlikely.
func freeAddrs(n int) ([]string, error) {
	addrs := make([]string, 0, n)
	for range maxPortTries {
		if len(addrs) == n {
			break
		}
		port := firstPort + rand.IntN(endPort-firstPort)
		l, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer l.Close() // Held until all are chosen, so that they differ.
		addrs = append(addrs, l.Addr().String())
	}
	if len(addrs) < n {
		return nil, fmt.Errorf("server: no %d free loopback ports in %d tries", n, maxPortTries)
	}
	return addrs, nil
}
