package app

import (
	"context"
	"os"
	"os/signal"
)

// StopOn returns a context that ends at the first of the signals; the second
// ends the process at once.
func StopOn(ctx context.Context, signals ...os.Signal) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	c := make(chan os.Signal, 2)
	signal.Notify(c, signals...)
	go func() {
		<-c
		cancel()
		<-c
		os.Exit(exitFailed)
	}()
	return ctx
}
