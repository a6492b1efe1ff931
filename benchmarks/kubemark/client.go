//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/kubemark/exposition"
)

// callTimeout is kube-apiserver's own for requests that are no watches.
const callTimeout = time.Minute

// client talks to kube-apiserver on connections of its own. It repeats nothing: what
// fails is counted.
type client struct {
	token  string
	http   *http.Client
	ledger *ledger
}

func newClient(c *cluster, l *ledger) *client {
	roots := x509.NewCertPool()
	roots.AddCert(c.creds.ca)
	return &client{token: c.token, ledger: l, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
	}}}
}

// apiError is a refusal by kube-apiserver.
type apiError struct {
	code int
	text string
}

func (e *apiError) Error() string { return fmt.Sprintf("%d %s", e.code, e.text) }

// hasCode says whether err is a refusal with this code.
func hasCode(err error, code int) bool {
	refusal := (*apiError)(nil)
	return errors.As(err, &refusal) && refusal.code == code
}

func (c *client) open(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var payload io.Reader = http.NoBody
	contentType := "application/json"
	switch b := body.(type) {
	case nil:
	case patch:
		payload, contentType = strings.NewReader(string(b)), "application/merge-patch+json"
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		payload = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, apiURL+path, payload)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", contentType)
	resp, err := c.http.Do(req)
	if err != nil || resp.StatusCode < 300 {
		return resp, err
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	_ = resp.Body.Close()
	var status struct{ Message string }
	if json.Unmarshal(text, &status) != nil || status.Message == "" {
		status.Message = string(text)
	}
	return nil, &apiError{resp.StatusCode, status.Message}
}

// patch is a JSON merge patch.
type patch string

// do sends one request, reads its answer to the end and decodes it into answer, if that
// is not nil. What it took is in the ledger under kind.
func (c *client) do(ctx context.Context, kind, method, path string, body, answer any) error {
	timed, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	began := time.Now()
	err := c.exchange(timed, method, path, body, answer)
	if ctx.Err() == nil { // Else it was cut off by us.
		c.ledger.add(kind, time.Since(began), err)
	}
	return err
}

func (c *client) exchange(ctx context.Context, method, path string, body, answer any) error {
	resp, err := c.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if answer == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// status is the code of an answer, 0 if there is none.
func (c *client) status(ctx context.Context, path string) int {
	resp, err := c.open(ctx, http.MethodGet, path, nil)
	refusal := (*apiError)(nil)
	switch {
	case errors.As(err, &refusal):
		return refusal.code
	case err != nil:
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// readyNodes counts them.
func (c *client) readyNodes(ctx context.Context) (int, error) {
	var list struct {
		Items []struct {
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := c.exchange(ctx, http.MethodGet, "/api/v1/nodes", nil, &list); err != nil {
		return 0, err
	}
	ready := 0
	for _, node := range list.Items {
		for _, condition := range node.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				ready++
			}
		}
	}
	return ready, nil
}

// The histograms of kube-apiserver's that are read: how long requests took, the same
// less what webhooks and queues took, as the promises have it, whose least bucket is
// 50 ms, and how long its store took.
const (
	requestHistogram = "apiserver_request_duration_seconds"
	promiseHistogram = "apiserver_request_sli_duration_seconds"
	storeHistogram   = "etcd_request_duration_seconds"
)

// metrics reads kube-apiserver's own.
func (c *client) metrics(ctx context.Context) ([]exposition.Sample, error) {
	resp, err := c.open(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return exposition.Parse(resp.Body, func(name string) bool {
		for _, histogram := range []string{requestHistogram, promiseHistogram, storeHistogram} {
			if strings.HasPrefix(name, histogram) {
				return true
			}
		}
		return false
	})
}
