//go:build linux

package process

import (
	"os"
	"os/exec"
)

// Attach is a server that somebody else has started and will end, whose data lies in
// dir/data: what it uses can be read, and nothing else.
func Attach(pid int, dir string) (*Server, error) {
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	return &Server{cmd: &exec.Cmd{Process: p}, dir: dir}, nil
}
