//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/pebbledash/pebbledash/benchmarks/process"
)

// backupEvery is of how many keys one is written again, some 1%. It shares no divisor with
// the numbers of families and namespaces, so that keys of all are.
const backupEvery = 101

// The columns of backups, of which each kind is a row.
var (
	tookSeconds = &metric{"took s"}
	theirCPU    = &metric{"server CPU s"}
	writtenMiB  = &metric{"written MiB"}

	backupColumns = []*metric{tookSeconds, theirCPU, beforeMiB, aboveMiB, writtenMiB}
)

// backupSheet is the table of backups.
func backupSheet(p *plan) sheet {
	return sheet{"backup", "backups of " + p.filling(), "what", backupColumns}
}

// runBackups fills a server and takes backups of it: by its own program into a repository,
// one beside it in etcd's format that goes nowhere, and a restore.
func runBackups(ctx context.Context, t *turn) (err error) {
	server, stop, err := t.start(ctx, "--quota-backend-bytes=-1") // none
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop(), os.RemoveAll(t.dir)) }()
	if err := t.fillStore(ctx, server, 1); err != nil {
		return err
	}
	address, binary := server[0].Address, t.peer().binary
	repository := filepath.Join(t.dir, "repository")
	create := func() (int64, error) {
		before, err := bytesIn(repository)
		if err != nil {
			return 0, err
		}
		err = runProgram(ctx, binary, "backup", "create", "--endpoints=http://"+address, "--repository="+repository)
		after, serr := bytesIn(repository)
		return after - before, errors.Join(err, serr)
	}
	snapshot := func() (int64, error) {
		n, _, _, err := take(ctx, address)
		return n, err
	}
	restore := func() (int64, error) {
		data := filepath.Join(t.dir, "restored")
		err := runProgram(ctx, binary, "backup", "restore", "latest", "--repository="+repository, "--data-dir="+data)
		n, serr := bytesIn(data)
		return n, errors.Join(err, serr, os.RemoveAll(data))
	}
	if err := t.backup(server, "first backup", create); err != nil {
		return err
	}
	if err := t.fillStore(ctx, server, backupEvery); err != nil {
		return err
	}
	for _, b := range []struct {
		name string
		do   func() (int64, error)
	}{
		{"after 1% was written again", create},
		{"right after that", create},
		{"etcd's snapshot", snapshot},
		{"restore of the last", restore},
	} {
		if err := t.backup(server, b.name, b.do); err != nil {
			return err
		}
	}
	return nil
}

// backup measures what do, which says how much it has written, takes of the server, which
// does nothing else.
func (t *turn) backup(server process.Cluster, name string, do func() (int64, error)) error {
	var wrote int64
	c, err := atRest(server, func() (err error) {
		wrote, err = do()
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	t.add(backupSheet(t.plan), name, sample{
		tookSeconds: c.took.Seconds(), theirCPU: c.cpu.Seconds(),
		beforeMiB: mib(c.before), aboveMiB: mib(c.above), writtenMiB: mib(wrote),
	})
	return nil
}

// runProgram runs a program to its end.
func runProgram(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

// bytesIn is how much is in a directory, which need not be there.
func bytesIn(dir string) (n int64, err error) {
	err = filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil && !info.IsDir() {
			n += info.Size()
		}
		return err
	})
	return n, err
}
