//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/pebbledash/pebbledash/benchmarks/overload"
)

// overloadClient is the first argument of a process of clients.
const overloadClient = "overload-client"

// The columns of the overload.
var (
	quiet50    = &metric{"quiet p50 ms"}
	quiet99    = &metric{"quiet p99 ms"}
	loaded50   = &metric{"loaded p50 ms"}
	loaded99   = &metric{"loaded p99 ms"}
	loadedMax  = &metric{"loaded max ms"}
	ratio99    = &metric{"p99 ratio"}
	refused    = &metric{"refused"}
	eventRate  = &metric{"events/s"}
	eventsLate = &metric{"events refused/s"}
	listRate   = &metric{"lists/s"}
	listsLate  = &metric{"lists refused/s"}
	quietRSS   = &metric{"quiet RSS MiB"}

	overloadColumns = []*metric{quiet50, quiet99, loaded50, loaded99, loadedMax, ratio99, refused}
	aroundColumns   = []*metric{eventRate, eventsLate, listRate, listsLate, cores, quietRSS, memory}
)

// The tables of the overload.
var (
	overloadSheet = sheet{"overload", "renewals of node leases", "", overloadColumns}
	aroundSheet   = sheet{"overload-around", "around them, while loaded", "", aroundColumns}
)

// runOverload measures the renewals of leases, on a server with nothing else to do and
// then with far too much.
func runOverload(ctx context.Context, t *turn) (err error) {
	p := t.plan
	server, stop, err := t.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	address := server[0].Address
	if err := overload.Prepare(ctx, address); err != nil {
		return err
	}
	quiet, err := runClients(ctx, overload.Nodes, address, p.warmup, p.measure)
	if err != nil {
		return err
	}
	before, err := server.PeakBytes()
	if err != nil {
		return err
	}

	// Those who are in the way begin first, and go on until the nodes are done.
	const slack = 2 * time.Second
	around := make([]overload.Report, len(p.around))
	ended := make(chan error, len(p.around))
	for i, kind := range p.around {
		go func() {
			r, err := runClients(ctx, kind, address, 2*p.warmup, p.measure+slack)
			if err == nil {
				around[i] = *r
			}
			ended <- err
		}()
	}
	timer := time.NewTimer(p.warmup)
	defer timer.Stop()
	select {
	case <-timer.C:
	case err := <-ended:
		return errors.Join(errors.New("the storm ended early"), err)
	}
	used, err := server.Usage()
	if err != nil {
		return err
	}
	began := time.Now()
	profiled := make(chan error, 1)
	go func() { profiled <- takeProfile(ctx, address, t.profileName("overload"), p.measure) }()
	loaded, err := runClients(ctx, overload.Nodes, address, p.warmup, p.measure)
	if err != nil {
		return err
	}
	after, err := server.Usage()
	if err != nil {
		return err
	}
	took := time.Since(began)
	for range around {
		err = errors.Join(err, <-ended)
	}
	if err := errors.Join(err, <-profiled); err != nil {
		return err
	}
	peak, err := server.PeakBytes()
	if err != nil {
		return err
	}
	seconds := (p.measure + slack).Seconds()
	ms := func(r *overload.Report, q float64) float64 { return milliseconds(r.Latencies, q) }
	one := sample{
		quiet50: ms(quiet, 0.5), quiet99: ms(quiet, 0.99),
		loaded50: ms(loaded, 0.5), loaded99: ms(loaded, 0.99), loadedMax: ms(loaded, 1),
		ratio99: ms(loaded, 0.99) / ms(quiet, 0.99), refused: float64(loaded.Refused),
		cores:    (after.CPU - used.CPU).Seconds() / took.Seconds(),
		quietRSS: mib(before), memory: mib(peak),
	}
	for i, r := range around {
		done, late := float64(r.Done)/seconds, float64(r.Refused)/seconds
		if p.around[i] == overload.Storm {
			one[eventRate], one[eventsLate] = done, late
		} else {
			one[listRate], one[listsLate] = done, late
		}
	}
	t.add(overloadSheet, "", one)
	t.add(aroundSheet, "", one)
	return nil
}

// runClients runs a process of clients and returns what it has seen.
func runClients(ctx context.Context, kind, address string, warmup, measure time.Duration) (*overload.Report, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, overloadClient, kind, address, warmup.String(), measure.String())
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("the %s: %w: %s", kind, err, strings.TrimSpace(complaint.String()))
	}
	var r overload.Report
	return &r, json.Unmarshal(out.Bytes(), &r)
}
