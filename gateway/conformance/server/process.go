package server

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// process is one run of the program.
type process struct {
	cmd *exec.Cmd
	log *logFile

	// exited is closed when the process is gone, its output is in the log and
	// state is set.
	exited chan struct{}
	state  *os.ProcessState
}

// startProcess starts the program and returns without waiting for anything.
func startProcess(path string, args, env []string, logPath string) (*process, error) {
	log, err := openLog(logPath)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = log, log // The same writer: one pipe, in order.
	cmd.SysProcAttr = dieWithParent()
	p := &process{cmd: cmd, log: log, exited: make(chan struct{})}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return p, nil
}

// run starts the process, reports that on started, and waits for its end.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread() // See dieWithParent.
	defer runtime.UnlockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	// The error only says again what the state says.
	_ = p.cmd.Wait()
	p.state = p.cmd.ProcessState
	_ = p.log.Close()
	close(p.exited)
}

// signal sends sig. It is no error if the process is gone already.
func (p *process) signal(sig os.Signal) error {
	err := p.cmd.Process.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// kill ends the process and waits until it is gone.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.exited
	return nil
}
