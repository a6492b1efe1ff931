package engine

import (
	"os"
	"syscall"
)

// lengthen reserves space for a file, and makes the file as long.
func lengthen(fd uintptr, offset, length int64) error {
	return os.NewSyscallError("fallocate", syscall.Fallocate(int(fd), 0, offset, length))
}
