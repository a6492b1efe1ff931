package serving

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"sync"
)

// revoked is the content of a file of revoked certificates.
type revoked struct {
	file string
	// news is told when something else was loaded than before.
	news func()

	// mu guards the fields below. Nothing is taken after it.
	mu sync.Mutex
	// content is what serials were made of.
	content []byte
	serials map[string]struct{}
}

func loadRevoked(file string, news func()) (*revoked, error) {
	r := &revoked{file: file, news: news}
	return r, r.load()
}

// load reads the file. If it can't be read, what was loaded before stays.
func (r *revoked) load() error {
	content, err := os.ReadFile(r.file)
	if err != nil {
		return fmt.Errorf("cannot load revoked certificates: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.serials != nil && bytes.Equal(content, r.content) {
		return nil
	}
	serials, err := parseRevoked(content)
	if err != nil {
		return fmt.Errorf("cannot load revoked certificates of %s: %w", r.file, err)
	}
	if r.serials != nil {
		r.news()
	}
	r.content, r.serials = content, serials
	return nil
}

// parseRevoked takes one list in DER, or any number in PEM.
func parseRevoked(content []byte) (map[string]struct{}, error) {
	var lists [][]byte
	for rest := content; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		lists = append(lists, block.Bytes)
	}
	if len(lists) == 0 {
		lists = [][]byte{content}
	}
	serials := map[string]struct{}{}
	for _, der := range lists {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, err
		}
		for _, entry := range list.RevokedCertificateEntries {
			serials[entry.SerialNumber.String()] = struct{}{}
		}
	}
	return serials, nil
}

// check reads the file once more, for a revocation is urgent, and returns an error
// if one of the certificates was revoked. A file that can't be read is Run's to
// complain about.
func (r *revoked) check(shown []*x509.Certificate) error {
	_ = r.load()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, cert := range shown {
		if _, ok := r.serials[cert.SerialNumber.String()]; ok {
			return fmt.Errorf("the certificate of %q with serial number %x was revoked", cert.Subject.CommonName, cert.SerialNumber)
		}
	}
	return nil
}
