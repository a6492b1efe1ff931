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
// way nor in that of its own pods.

// clientOf names the client of a call: its certificate's common name, or else the
// address that it calls from, without the port.
func clientOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	if t, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(t.State.PeerCertificates) > 0 {
		if name := t.State.PeerCertificates[0].Subject.CommonName; name != "" {
			return name
		}
	}
	if p.Addr == nil {
		return ""
	}
	address := p.Addr.String()
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// hash chooses the queues of a flow.
func (l *Limiter) hash(resource, client string) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	_, _ = h.WriteString(resource) // They never fail.
	_ = h.WriteByte(0)
	_, _ = h.WriteString(client)
	return h.Sum64()
}
