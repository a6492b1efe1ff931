//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/process"
)

const backupMode = "backup"

// backupChanged is of how many keys one is written again.
const backupChanged = 100

// The columns of backups, of which each kind is a row.
var (
	backupSeconds = &metric{"s"}
	backupCPU     = &metric{"server CPU s"}
	backupBefore  = &metric{"RSS before MiB"}
	backupAbove   = &metric{"above it MiB"}
	backupNew     = &metric{"written MiB"}

	backupColumns = []*metric{backupSeconds, backupCPU, backupBefore, backupAbove, backupNew}
)

// backupKinds are what is measured of a server: backups by its own program into a
// repository, one beside it in etcd's format that goes nowhere, and a restore.
var backupKinds = []string{"first backup", "after 1% was written again", "right after that", "etcd's snapshot", "restore of the last"}

// backups are the samples, by kind and peer.
type backups struct {
	p       *plan
	samples [][][]sample
}

func newBackups(p *plan) *backups {
	b := &backups{p: p}
	for range backupKinds {
		b.samples = append(b.samples, make([][]sample, len(p.peers)))
	}
	return b
}

// runTurn fills a server and takes backups of it.
func (b *backups) runTurn(ctx context.Context, _, who int, dir string) (err error) {
	p := b.p
	peer := p.peers[who]
	peer.args = append([]string{"--quota-backend-bytes=-1"}, peer.args...) // none
	servers, stop, err := p.start(ctx, peer, filepath.Join(dir, "server"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop(), os.RemoveAll(dir)) }()
	server := servers[0]
	if err := fill(ctx, server.Address, p, 1); err != nil {
		return err
	}
	repository := filepath.Join(dir, "repository")
	create := func() (int64, error) {
		before, err := size(repository)
		if err != nil {
			return 0, err
		}
		err = runProgram(ctx, peer.binary, "backup", "create", "--endpoints=http://"+server.Address, "--repository="+repository)
		after, serr := size(repository)
		return after - before, errors.Join(err, serr)
	}
	restore := func() (int64, error) {
		data := filepath.Join(dir, "restored")
		err := runProgram(ctx, peer.binary, "backup", "restore", "latest", "--repository="+repository, "--data-dir="+data)
		n, serr := size(data)
		return n, errors.Join(err, serr, os.RemoveAll(data))
	}
	snapshot := func() (int64, error) {
		n, _, _, err := take(ctx, server.Address)
		return n, err
	}
	for kind, do := range []func() (int64, error){create, create, create, snapshot, restore} {
		if kind == 1 {
			if err := fill(ctx, server.Address, p, backupChanged); err != nil {
				return err
			}
		}
		s, err := measureBackup(server, do)
		if err != nil {
			return err
		}
		b.samples[kind][who] = append(b.samples[kind][who], s)
	}
	return nil
}

// measureBackup says what do takes of the server, which does nothing else, and how much it
// has written.
func measureBackup(server *process.Server, do func() (int64, error)) (sample, error) {
	if err := server.ResetPeak(); err != nil {
		return nil, err
	}
	before, err := server.PeakBytes()
	if err != nil {
		return nil, err
	}
	used, err := server.Usage()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	wrote, err := do()
	took := time.Since(began)
	if err != nil {
		return nil, err
	}
	after, err := server.Usage()
	if err != nil {
		return nil, err
	}
	peak, err := server.PeakBytes()
	return sample{
		backupSeconds: took.Seconds(), backupCPU: (after.CPU - used.CPU).Seconds(),
		backupBefore: float64(before) / (1 << 20), backupAbove: float64(peak-before) / (1 << 20), backupNew: float64(wrote) / (1 << 20),
	}, err
}

// runProgram runs a program to its end.
func runProgram(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

// size is how much is in a directory, which need not be there.
func size(dir string) (n int64, err error) {
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

// write prints a table.
func (b *backups) write(w io.Writer) error {
	r := &results{p: b.p}
	fmt.Fprintf(w, "\nbackups of %d MiB of values of %d KiB\n", b.p.fill>>20, b.p.value>>10)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head(table, "", backupColumns)
	for kind, name := range backupKinds {
		r.rows(table, name, backupColumns, b.samples[kind])
	}
	return table.Flush()
}
