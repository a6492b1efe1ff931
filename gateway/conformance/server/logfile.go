package server

import (
	"bytes"
	"os"
	"sync"
)

// readyLine is what etcd logs once its client port answers. Pebbledash logs
// the same words.
const readyLine = "ready to serve client requests"

// logFile takes what a process writes to its stdout and stderr, keeps it in a
// file, and says when readyLine comes by.
type logFile struct {
	file  *os.File
	ready chan struct{} // closed when readyLine has been seen

	mu   sync.Mutex
	seen bool
	// tail is the end of what came before, in which readyLine may have begun.
	// Invariant: len(tail) < len(readyLine).
	tail []byte
}

// openLog appends to the file, so that it holds the whole story of a member
// that is restarted.
func openLog(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &logFile{file: f, ready: make(chan struct{})}, nil
}

// Write implements io.Writer. It is called by the one goroutine that copies
// the process's output.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.seen {
		window := append(l.tail, p...)
		if bytes.Contains(window, []byte(readyLine)) {
			l.seen = true
			close(l.ready)
		}
		l.tail = append([]byte(nil), window[max(0, len(window)-len(readyLine)+1):]...)
	}
	return l.file.Write(p)
}

func (l *logFile) Close() error { return l.file.Close() }

// maxTailBytes bounds how much of a log is quoted in an error.
const maxTailBytes = 2 << 10

// logTail returns the last lines of a log, for an error message.
func logTail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(data) > maxTailBytes {
		data = data[len(data)-maxTailBytes:]
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			data = data[i+1:]
		}
	}
	return string(data)
}
