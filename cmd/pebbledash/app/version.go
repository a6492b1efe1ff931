package app

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	etcdversion "go.etcd.io/etcd/api/v3/version"
)

// Set by the linker (see the Makefile), and never written after that.
var (
	version = "unknown"
	gitSHA  = ""
)

// Version returns the version of Pebbledash and the commit it was built from.
func Version() (ver, commit string) {
	if gitSHA != "" {
		return version, gitSHA
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return version, s.Value
			}
		}
	}
	return version, "Not provided (use make build instead of go build)"
}

// printVersion prints what etcd prints, line by line, because programs read it,
// and then our own version. The first line is the etcd that we behave like.
func printVersion(w io.Writer) error {
	ver, commit := Version()
	_, err := fmt.Fprintf(w, `etcd Version: %s
Git SHA: %s
Go Version: %s
Go OS/Arch: %s/%s
Pebbledash Version: %s
`, etcdversion.Version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, ver)
	return err
}
