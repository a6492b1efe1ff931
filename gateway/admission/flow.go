package admission

import (
	"context"
	"hash/maphash"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// A flow is what is to get its fair part: the requests of one client about one
// resource. So one client's storm of events stands neither in another client's
// way nor in that of its own pods. A client is its certificate's common name, or
// else the address that it calls from, without the port.

// clientOf is the client of a call; nil if it is not known.
func clientOf(ctx context.Context) *peer.Peer {
	p, _ := peer.FromContext(ctx)
	return p
}

// commonName of a client's certificate; "" if it has none.
func commonName(p *peer.Peer) string {
	if p == nil {
		return ""
	}
	if t, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(t.State.PeerCertificates) > 0 {
		return t.State.PeerCertificates[0].Subject.CommonName
	}
	return ""
}

// nameOf names a client to people.
func nameOf(p *peer.Peer) string {
	if name := commonName(p); name != "" {
		return name
	}
	if p == nil || p.Addr == nil {
		return ""
	}
	address := p.Addr.String()
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// flowOf is a number of a flow, which chooses its queues.
func (l *Limiter) flowOf(resource string, client *peer.Peer) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	_, _ = h.WriteString(resource) // They never fail.
	_ = h.WriteByte(0)
	if name := commonName(client); name != "" {
		_, _ = h.WriteString(name)
	} else if client != nil {
		// Most by far; its text would cost as much as all the rest.
		if tcp, ok := client.Addr.(*net.TCPAddr); ok {
			_, _ = h.Write(tcp.IP)
		} else {
			_, _ = h.WriteString(nameOf(client))
		}
	}
	return h.Sum64()
}
