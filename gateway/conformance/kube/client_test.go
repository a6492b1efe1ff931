//go:build linux

package kube

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
	"net/url"
	"strconv"
	"testing"
)

// object is as much of any API object or list as the session looks at.
type object struct {
	APIVersion string          `json:"apiVersion,omitempty"`
	Kind       string          `json:"kind,omitempty"`
	Metadata   metadata        `json:"metadata"`
	Data       dict            `json:"data,omitempty"`
	Spec       json.RawMessage `json:"spec,omitempty"`
	Status     json.RawMessage `json:"status,omitempty"`
	Items      []object        `json:"items,omitempty"`

	// Of events.
	InvolvedObject dict   `json:"involvedObject,omitempty"`
	Type           string `json:"type,omitempty"`

	// Of discovery.
	Groups []struct {
		Versions []struct {
			GroupVersion string `json:"groupVersion"`
		} `json:"versions"`
	} `json:"groups,omitempty"`
	Resources []struct {
		Name  string   `json:"name"`
		Verbs []string `json:"verbs"`
	} `json:"resources,omitempty"`

	// Of failures, whose kind is Status.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Code    int    `json:"code,omitempty"`
}

type dict map[string]string

type metadata struct {
	Name              string   `json:"name,omitempty"`
	Namespace         string   `json:"namespace,omitempty"`
	UID               string   `json:"uid,omitempty"`
	ResourceVersion   string   `json:"resourceVersion,omitempty"`
	Labels            dict     `json:"labels,omitempty"`
	Annotations       dict     `json:"annotations,omitempty"`
	Finalizers        []string `json:"finalizers,omitempty"`
	DeletionTimestamp string   `json:"deletionTimestamp,omitempty"`

	// Of lists.
	Continue           string `json:"continue,omitempty"`
	RemainingItemCount *int64 `json:"remainingItemCount,omitempty"`
}

// revision is the object's resourceVersion as the number that the store gave.
func (o *object) revision(t *testing.T) int64 {
	t.Helper()
	return parseRevision(t, o.Metadata.ResourceVersion)
}

func parseRevision(t *testing.T, s string) int64 {
	t.Helper()
	rev, err := strconv.ParseInt(s, 10, 64)
	if err != nil || rev <= 0 {
		t.Fatalf("resourceVersion %q is no positive number", s)
	}
	return rev
}

// apiError is a refusal by kube-apiserver.
type apiError struct {
	code            int
	reason, message string
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%d %s: %s", e.code, e.reason, e.message)
}

// refused reports whether err is a refusal with that code.
func refused(err error, code int) bool {
	refusal := (*apiError)(nil)
	return errors.As(err, &refusal) && refusal.code == code
}

// api talks to kube-apiserver without a client library, so that exactly what is
// written here is sent, and once.
type api struct {
	base, token string
	client      *http.Client
}

func newAPI(base, token string, ca *x509.Certificate) *api {
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return &api{base: base, token: token, client: &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2: true,
	}}}
}

func (a *api) open(ctx context.Context, method, path string, query url.Values, contentType string, body any) (*http.Response, error) {
	var payload io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		payload = bytes.NewReader([]byte(b))
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		payload = bytes.NewReader(encoded)
	}
	to := a.base + path
	if len(query) > 0 {
		to += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, to, payload)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Accept", "application/json")
	if payload != nil {
		req.Header.Set("Content-Type", contentType)
	}
	return a.client.Do(req)
}

// do sends one request and decodes the answer.
func (a *api) do(ctx context.Context, method, path string, query url.Values, contentType string, body any) (*object, error) {
	resp, err := a.open(ctx, method, path, query, contentType, body)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, asError(resp.StatusCode, raw)
	}
	o := &object{}
	if err := json.Unmarshal(raw, o); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return o, nil
}

func asError(code int, body []byte) error {
	var failure object
	if err := json.Unmarshal(body, &failure); err != nil {
		failure = object{Message: string(body)}
	}
	return &apiError{code: code, reason: failure.Reason, message: failure.Message}
}

func (a *api) get(ctx context.Context, path string, query ...string) (*object, error) {
	return a.do(ctx, http.MethodGet, path, pairs(query), "", nil)
}

func (a *api) create(ctx context.Context, path string, body any) (*object, error) {
	return a.do(ctx, http.MethodPost, path, nil, "application/json", body)
}

func (a *api) update(ctx context.Context, path string, body any) (*object, error) {
	return a.do(ctx, http.MethodPut, path, nil, "application/json", body)
}

func (a *api) patch(ctx context.Context, path, body string) (*object, error) {
	return a.do(ctx, http.MethodPatch, path, nil, "application/merge-patch+json", body)
}

func (a *api) delete(ctx context.Context, path string, body any) (*object, error) {
	return a.do(ctx, http.MethodDelete, path, nil, "application/json", body)
}

// status answers only the code, for health endpoints; 0 is no answer at all.
func (a *api) status(ctx context.Context, path string) int {
	resp, err := a.open(ctx, http.MethodGet, path, nil, "", nil)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// pairs makes a query of keys and values in turn.
func pairs(kv []string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(kv); i += 2 {
		q.Add(kv[i], kv[i+1])
	}
	return q
}

// event is one line of a watch.
type event struct {
	Type   string `json:"type"`
	Object object `json:"object"`
}

func (e event) String() string {
	return fmt.Sprintf("%s %s/%s@%s %s", e.Type, e.Object.Metadata.Namespace, e.Object.Metadata.Name,
		e.Object.Metadata.ResourceVersion, e.Object.Message)
}

// watch is one watch request. It is read by one goroutine.
type watch struct {
	body io.ReadCloser
	dec  *json.Decoder
}

// watch opens a watch; the query gets watch=true.
func (a *api) watch(ctx context.Context, path string, query ...string) (*watch, error) {
	resp, err := a.open(ctx, http.MethodGet, path, pairs(append(query, "watch", "true")), "", nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		return nil, asError(resp.StatusCode, raw)
	}
	return &watch{body: resp.Body, dec: json.NewDecoder(resp.Body)}, nil
}

// next is the next event, or io.EOF when kube-apiserver has ended the watch.
func (w *watch) next() (event, error) {
	var e event
	err := w.dec.Decode(&e)
	return e, err
}

func (w *watch) close() { _ = w.body.Close() }

// nextOf skips to an event of that type and name; another event of that name
// on the way, an ERROR, or the end of the watch fails the test.
func (w *watch) nextOf(t *testing.T, eventType, name string) event {
	t.Helper()
	for {
		e, err := w.next()
		switch {
		case err != nil:
			t.Fatalf("watch, waiting for %s %s: %v", eventType, name, err)
		case e.Type == "ERROR":
			t.Fatalf("watch, waiting for %s %s: %s", eventType, name, e)
		case e.Object.Metadata.Name != name:
		case e.Type == eventType:
			return e
		default:
			t.Fatalf("watch, waiting for %s %s: got %s", eventType, name, e)
		}
	}
}
