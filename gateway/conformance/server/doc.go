// Package server runs one member, Pebbledash or etcd, as a process of its own:
// for tests that hold it to etcd's behaviour, kill it for real, or measure it.
//
//	bin, err := server.Resolve(ctx)          // which program
//	srv, err := server.Start(ctx, server.Config{Binary: bin.Path, DataDir: dir})
//	... srv.Endpoint() ...
//	srv.Kill()                               // SIGKILL
//	srv.Restart(ctx)                         // same data, same ports
//	state, err := srv.Stop()                 // SIGTERM
//
// Both programs take etcd's flags and both say "ready to serve client
// requests" in their log when they are. That line is what Start waits for, so
// nothing here polls or sleeps. The log goes to a file.
//
// Invariants:
//
//  1. When Kill, Stop or a failed Start has returned, the process is gone: its
//     ports and its data directory are free.
//  2. A process does not outlive the program that started it, even if that
//     program is killed (on Linux).
//
// A Server may be used by several goroutines at once.
package server
