// Command pebbledash is a storage gateway that speaks the etcd v3 protocol.
// kube-apiserver takes it for an etcd.
package main

import (
	"context"
	"os"
	"syscall"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app"
)

func main() {
	ctx := app.StopOn(context.Background(), os.Interrupt, syscall.SIGTERM)
	os.Exit(app.Main(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
