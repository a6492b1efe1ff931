package repository

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// noLock stands for locks on file systems that only this process has.
func noLock(string, bool) (io.Closer, error) { return io.NopCloser(nil), nil }

// flock locks a file, for all processes of the machine, and on network file systems of
// others as far as these do. It does not wait. Whoever only reads does without where
// nothing can be written: there nobody changes anything.
func flock(path string, exclusive bool) (io.Closer, error) {
	how, flags := syscall.LOCK_SH, os.O_RDONLY|os.O_CREATE
	if exclusive {
		how, flags = syscall.LOCK_EX, os.O_RDWR|os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if !exclusive && (errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)) {
		if f, err = os.Open(path); err != nil {
			return noLock(path, exclusive)
		}
	}
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("%w: another process is at it (%s is locked); try again when it is done", ErrInUse, path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
