//go:build linux

package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
)

// errStop ends a follower from within.
var errStop = errors.New("seen enough")

// follower watches as a client library does: when kube-apiserver ends a watch,
// it opens another from the last revision that it has seen. That it may not go
// on from there is an error, since then events could be lost.
type follower struct {
	api   *api
	path  string
	query []string

	// reopened counts the watches after the first. It is read after run.
	reopened int
}

// run hands every event but bookmarks to see, in order, until ctx ends or see
// returns an error; errStop is none of run's.
func (f *follower) run(ctx context.Context, revision string, see func(event) error) error {
	for first := true; ; first = false {
		if !first {
			f.reopened++
		}
		query := append([]string{"resourceVersion", revision, "allowWatchBookmarks", "true"}, f.query...)
		w, err := f.api.watch(ctx, f.path, query...)
		switch {
		case ctx.Err() != nil:
			return nil
		case away(err):
			pause(ctx)
			continue
		case err != nil:
			return fmt.Errorf("watch of %s from %s: %w", f.path, revision, err)
		}
		revision, err = f.read(w, revision, see)
		w.close()
		switch {
		case errors.Is(err, errStop), ctx.Err() != nil:
			return nil
		case away(err):
			pause(ctx) // As in etcd, a watch ends while the store has no leader.
		case err != nil:
			return fmt.Errorf("watch of %s, at %s: %w", f.path, revision, err)
		}
	}
}

// away says that kube-apiserver refuses because its store is away.
func away(err error) bool {
	return refused(err, http.StatusInternalServerError) || refused(err, http.StatusServiceUnavailable) ||
		refused(err, http.StatusGatewayTimeout) || refused(err, http.StatusTooManyRequests)
}

// read reads one watch to its end and returns the revision to go on from.
func (f *follower) read(w *watch, revision string, see func(event) error) (string, error) {
	for {
		e, err := w.next()
		if err != nil {
			return revision, nil // The end of a watch is no failure.
		}
		if e.Type == "ERROR" {
			return revision, &apiError{code: e.Object.Code, reason: e.Object.Reason, message: e.Object.Message}
		}
		if older, err := goesBack(revision, e.Object.Metadata.ResourceVersion); err != nil || older {
			return revision, fmt.Errorf("%s after revision %s (%w)", e, revision, errors.Join(err, errOrder))
		}
		revision = e.Object.Metadata.ResourceVersion
		if e.Type == "BOOKMARK" {
			continue
		}
		if err := see(e); err != nil {
			return revision, err
		}
	}
}

var errOrder = errors.New("resourceVersions of a watch have to rise")

// goesBack reports whether revision next is before last.
func goesBack(last, next string) (bool, error) {
	l, err := strconv.ParseInt(last, 10, 64)
	if err != nil {
		return false, err
	}
	n, err := strconv.ParseInt(next, 10, 64)
	return n < l, err
}

// ledger is what clients were told about objects of one collection: by the
// answers to their writes, or by a watch.
type ledger struct {
	mu      sync.Mutex
	changed *sync.Cond        // of mu
	noted   map[string]string // name to resourceVersion; guarded by mu
}

func newLedger() *ledger {
	l := &ledger{noted: map[string]string{}}
	l.changed = sync.NewCond(&l.mu)
	return l
}

// note refuses a name that was noted before.
func (l *ledger) note(o *object) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if earlier, ok := l.noted[o.Metadata.Name]; ok {
		return fmt.Errorf("%s came at %s, and again at %s", o.Metadata.Name, earlier, o.Metadata.ResourceVersion)
	}
	l.noted[o.Metadata.Name] = o.Metadata.ResourceVersion
	l.changed.Broadcast()
	return nil
}

func (l *ledger) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.noted)
}

// snapshot is a copy of what has been noted so far.
func (l *ledger) snapshot() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	copied := make(map[string]string, len(l.noted))
	for name, revision := range l.noted {
		copied[name] = revision
	}
	return copied
}

// wait waits until enough says so, or the context ends.
func (l *ledger) wait(ctx context.Context, enough func(noted map[string]string) bool) error {
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.changed.Broadcast()
	})
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !enough(l.noted) {
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("with %d objects noted: %w", len(l.noted), err)
		}
		l.changed.Wait()
	}
	return nil
}
