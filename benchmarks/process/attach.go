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

// ResidentBytes is the memory that is resident now.
func (s *Server) ResidentBytes() (int64, error) {
	status, err := os.ReadFile(s.proc("status"))
	if err != nil {
		return 0, err
	}
	kb, err := field(status, "VmRSS:")
	return kb << 10, err
}
