package openloop

import (
	"context"
	"time"
)

// Until waits for a time.
func Until(ctx context.Context, t time.Time) error { return Sleep(ctx, time.Until(t)) }

// Sleep lets time pass. An error is why ctx has ended.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
