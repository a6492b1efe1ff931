package serving

import (
	"time"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/util/cert"
)

// Expiration is when the first of the certificates ends that are in use now to serve
// and to connect with, those in between to the authority included. It is false if there
// are none.
func (t *TLS) Expiration() (first time.Time, shown bool) {
	for _, pair := range []*dynamiccertificates.DynamicCertKeyPairContent{t.cert, t.dialCert} {
		if pair == nil {
			continue
		}
		content, _ := pair.CurrentCertKeyContent()
		chain, err := cert.ParseCertsPEM(content)
		if err != nil {
			continue // It was loaded, so it can be parsed.
		}
		for _, c := range chain {
			if !shown || c.NotAfter.Before(first) {
				first, shown = c.NotAfter, true
			}
		}
	}
	return first, shown
}
