//go:build linux

package main

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
)

var nodeFolder = regexp.MustCompile(`Using (\S+) as root dir for hollow-kubelet`)

// tidyNodes removes what hollow nodes leave in /tmp, wherever TMPDIR points: their
// folders, which their log names, and their runtimes' sockets, which nothing names, but
// behind which nobody listens any more.
//
// REQUIRES: the nodes have ended.
func (c *cluster) tidyNodes() error {
	log, err := os.ReadFile((&child{name: hollowNodes, dir: c.dir}).log())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, m := range nodeFolder.FindAllSubmatch(log, -1) {
		errs = append(errs, os.RemoveAll(string(m[1])))
	}
	sockets, err := filepath.Glob("/tmp/kubelet_remote_*.sock")
	errs = append(errs, err)
	for _, path := range sockets {
		conn, err := net.Dial("unix", path)
		if err == nil {
			_ = conn.Close()
			continue
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}
