package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// Ask makes a call of whatever member is at one of the URLs, as nobody: its Handler
// is told that the call is from member 0. Each URL is tried in turn until one of them
// has taken the call. The errors are those of Transport.Call.
func Ask(ctx context.Context, urls []string, config func() *tls.Config, method byte, payload []byte) ([]byte, error) {
	d := dialer{tls: config, timeout: defaultDialTimeout, clock: clock.Real{}, buffers: new(bufferPool)}
	if len(payload) > MaxPayloadBytes {
		return nil, fmt.Errorf("%w: a payload of %d bytes", ErrNotSent, len(payload))
	}
	var errs []error
	for _, url := range urls {
		reply, err := d.ask(ctx, url, method, payload)
		if err == nil || !errors.Is(err, ErrNotSent) && !errors.Is(err, ErrBusy) {
			return reply, err
		}
		errs = append(errs, fmt.Errorf("%s: %w", url, err))
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("%w: no URL", ErrNotSent)
	}
	return nil, errors.Join(errs...)
}

func (d *dialer) ask(ctx context.Context, url string, method byte, payload []byte) ([]byte, error) {
	l, err := d.open(url)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	defer l.close()
	// A ping comes first: what fails before it is answered was not sent.
	if err := d.reach(ctx, l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	request := append(append(make([]byte, 0, 1+len(payload)), method), payload...)
	var m message
	if err := l.cc.Invoke(ctx, askMethod, outgoing(request), &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, orContext(ctx, err))
	}
	return answer(m.take())
}

// reach connects a link, within the dial timeout.
func (d *dialer) reach(ctx context.Context, l *link) error {
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := d.clock.NewTimer(d.timeout)
	defer timer.Stop()
	go func() {
		select {
		case <-timer.C():
			cancel()
		case <-bounded.Done():
		}
	}()
	err := l.cc.Invoke(bounded, pingMethod, &message{}, &message{})
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("peer: no answer in %v", d.timeout)
	}
	return orContext(ctx, err)
}

// orContext returns ctx's error if it has ended and that is why err came about.
func orContext(ctx context.Context, err error) error {
	if c := status.Code(err); err != nil && ctx.Err() != nil && (c == codes.Canceled || c == codes.DeadlineExceeded) {
		return ctx.Err()
	}
	return err
}

// answerAsk answers an Ask.
func (t *Transport) answerAsk(ctx context.Context, b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: an empty call", ErrProtocol)
	}
	select {
	case t.asks <- struct{}{}:
		defer func() { <-t.asks }()
	default:
		t.metrics.busyCalls.Inc()
		return failure{class: classBusy}.append(nil), nil
	}
	reply, err := t.cfg.Handler.Call(ctx, 0, b[0], b[1:])
	if err == nil && len(reply) > MaxPayloadBytes {
		return failure{class: classUnknown, message: "the reply is too large"}.append(nil), nil
	}
	if err != nil {
		return failureOf(err).append(nil), nil
	}
	return append([]byte{classNone}, reply...), nil
}
