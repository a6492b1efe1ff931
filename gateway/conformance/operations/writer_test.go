package operations

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// writers write at the same time.
	writers = 4
	// callTimeout is what kube-apiserver's users may wait, and half of it.
	callTimeout = 30 * time.Second
)

// restarts is how often a page ends the leader's process at most.
const restarts = 3

// writer puts keys, one after the other, through client/v3 with all endpoints, and
// reads each back. A call that fails is never repeated here.
//
// A read must not fail. A write that is under way when the leader's process is killed may,
// with an error that leaves open whether it was done, which the library must not repeat:
// etcd 3.7.3 says "request timed out, possibly due to previous leader failure" to some,
// after seven seconds, sometimes also if it is only stopped; Pebbledash says "leader
// changed", at once.
type writer struct {
	client *clientv3.Client
	cancel context.CancelFunc
	all    sync.WaitGroup

	mu    sync.Mutex
	calls int
	// unknown are writes that may have been done, failed what must not be.
	unknown []string
	failed  []string
	slow    time.Duration
}

// writer is the command of that name: "start ENDPOINTS", and "stop", which
// fails if a call has that must not.
func (m *machines) writer(words []string) (string, error) {
	if len(words) == 0 {
		return "", errors.New("start, or stop?")
	}
	switch words[0] {
	case "start":
		w, err := startWriter(filepath.Join(m.root, "etc/pebbledash/tls"), strings.Split(words[1], ","))
		if err != nil {
			return "", err
		}
		m.mu.Lock()
		m.writers = append(m.writers, w)
		m.mu.Unlock()
		return "", nil
	case "stop":
		m.mu.Lock()
		defer m.mu.Unlock()
		var said strings.Builder
		var errs []error
		for _, w := range m.writers {
			allowed := writers * restarts
			if m.allKnown {
				allowed = 0
			}
			one, err := w.stop(allowed)
			said.WriteString(one)
			errs = append(errs, err)
		}
		m.writers = nil
		return said.String(), errors.Join(errs...)
	}
	return "", fmt.Errorf("%q", words[0])
}

func startWriter(folder string, endpoints []string) (*writer, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "client.crt"), filepath.Join(folder, "client.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(folder, "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(),
		TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{pair}},
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{client: client, cancel: cancel}
	for i := range writers {
		w.all.Go(func() { w.run(ctx, i) })
	}
	return w, nil
}

func (w *writer) run(ctx context.Context, i int) {
	for n := 0; ctx.Err() == nil; n++ {
		key, value := fmt.Sprintf("/registry/pods/writer-%d/%d", i, n%100), fmt.Sprint(n)
		var put error
		w.call(ctx, true, func(ctx context.Context) error {
			_, put = w.client.Put(ctx, key, value)
			return put
		})
		w.call(ctx, false, func(ctx context.Context) error {
			r, err := w.client.Get(ctx, key)
			if err == nil && put == nil && (len(r.Kvs) != 1 || string(r.Kvs[0].Value) != value) {
				err = fmt.Errorf("%s is not what was put", key)
			}
			return err
		})
	}
}

func (w *writer) call(ctx context.Context, write bool, f func(context.Context) error) {
	begin := realTime.Now()
	bounded, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := f(bounded)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	w.slow = max(w.slow, realTime.Since(begin))
	switch {
	case err == nil:
	case write && code(err) == codes.Unavailable:
		w.unknown = append(w.unknown, err.Error())
	default:
		w.failed = append(w.failed, err.Error())
	}
}

// code is gRPC's, also of those errors that the library has made its own.
func code(err error) codes.Code {
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		return known.Code()
	}
	return status.Code(err)
}

// stop ends the calls and counts them. The outcome of so many may be unknown.
func (w *writer) stop(unknown int) (string, error) {
	w.cancel()
	w.all.Wait()
	if err := w.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	said := fmt.Sprintf("%d calls, the slowest took %v; the outcome of %d writes is not known; %d calls failed\n%s\n",
		w.calls, w.slow, len(w.unknown), len(w.failed), strings.Join(append(w.unknown, w.failed...), "\n"))
	switch {
	case len(w.failed) > 0 || len(w.unknown) > unknown:
		return said, errors.New(said)
	case w.calls == 0:
		return said, errors.New("nothing was written")
	}
	return said, nil
}
