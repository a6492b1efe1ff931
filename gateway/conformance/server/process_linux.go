package server

import "syscall"

// dieWithParent has the kernel kill the process when the *thread* that started
// it ends. NB: run keeps that thread for as long as the process lives.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
