//go:build linux

package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	// slots is how many networks there can be at a time on this machine.
	slots = 16

	// clients is the node that the test itself is.
	clients = 254

	// nowhere is an address that no node has: what is sent there is lost, and
	// nobody is told.
	nowhere = "02:00:0a:61:ff:ff"
)

// network is a switch, a namespace for each member with a cable to it, and a
// cable for the clients. The switch is in a namespace of its own, so that
// packet filters of the machine have no part in it.
//
//	           namespace pbf0s
//	          +---------------+
//	  pbf0c --| c   bridge  1 |-- eth0, 10.97.0.1  namespace pbf0m1
//	10.97.0.254             2 |-- eth0, 10.97.0.2  namespace pbf0m2
//	          |             3 |-- eth0, 10.97.0.3  namespace pbf0m3
//	          +---------------+
//
// Nodes do not ask for each other's hardware addresses: they are told. So one
// direction of a connection is cut by telling the sender an address that
// nobody has. Packets are then lost without a trace, those of connections that
// stand as well; and when the right address is back they go on.
//
// Names and addresses carry a slot, which a lock keeps for this network.
type network struct {
	slot int
	lock *os.File
	size int // members
}

// capable says why there can be no network here, or "".
func capable() string {
	if os.Geteuid() != 0 {
		return "needs root, for network namespaces and mounts"
	}
	for _, tool := range []string{"ip", "nsenter", "mount", "umount", "mkfs.ext4"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "needs " + tool + " on the PATH"
		}
	}
	probe := fmt.Sprintf("pbf-probe-%d", os.Getpid())
	if err := run("ip", "netns", "add", probe); err != nil {
		return fmt.Sprintf("needs network namespaces: %v", err)
	}
	if err := run("ip", "netns", "del", probe); err != nil {
		return err.Error()
	}
	return ""
}

// run runs a command; an error quotes what it said.
func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// newNetwork makes a network. It is gone when the test ends.
func newNetwork(t *testing.T, size int) *network {
	t.Helper()
	n := &network{size: size}
	if err := n.reserve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(n.clear(), n.lock.Close()); err != nil {
			t.Error(err)
		}
	})
	// What an earlier run has left that was killed.
	if err := n.clear(); err != nil {
		t.Fatal(err)
	}
	if err := n.build(); err != nil {
		t.Fatal(err)
	}
	return n
}

// reserve takes a slot. The lock ends with this process, however that ends.
func (n *network) reserve() error {
	for n.slot = range slots {
		lock, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("pebbledash-faults-%d.lock", n.slot)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			n.lock = lock
			return nil
		}
		_ = lock.Close()
	}
	return fmt.Errorf("all %d networks are in use", slots)
}

func (n *network) name(suffix string) string { return fmt.Sprintf("pbf%d%s", n.slot, suffix) }

// namespace is where a member lives.
func (n *network) namespace(node int) string { return n.name("m" + strconv.Itoa(node)) }

func (n *network) address(node int) string { return fmt.Sprintf("10.97.%d.%d", n.slot, node) }

func (n *network) hardware(node int) string {
	return fmt.Sprintf("02:00:0a:61:%02x:%02x", n.slot, node)
}

// scratch is a folder for what has to be found by the next run if this one is
// killed: disks.
func (n *network) scratch() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("pebbledash-faults-%d", n.slot))
}

// nodes are all that have an address.
func (n *network) nodes() []int {
	all := []int{clients}
	for i := range n.size {
		all = append(all, i+1)
	}
	return all
}

func (n *network) build() error {
	sw := n.name("s")
	if err := run("ip", "netns", "add", sw); err != nil {
		return err
	}
	if err := run("ip", "-n", sw, "link", "add", "bridge", "type", "bridge"); err != nil {
		return err
	}
	if err := run("ip", "-n", sw, "link", "set", "bridge", "up"); err != nil {
		return err
	}
	for _, node := range n.nodes() {
		if err := n.plug(node); err != nil {
			return err
		}
	}
	return n.heal()
}

// plug gives a node its cable.
func (n *network) plug(node int) error {
	sw, port := n.name("s"), fmt.Sprintf("p%d", node)
	if node != clients {
		ns := n.namespace(node)
		if err := run("ip", "netns", "add", ns); err != nil {
			return err
		}
		if err := run("ip", "-n", ns, "link", "set", "lo", "up"); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"link", "add", n.device(node), "address", n.hardware(node), "type", "veth", "peer", "name", port, "netns", sw},
		{"addr", "add", n.address(node) + "/24", "dev", n.device(node)},
		{"link", "set", n.device(node), "up"},
	} {
		if err := n.in(node, args...); err != nil {
			return err
		}
	}
	return run("ip", "-n", sw, "link", "set", port, "master", "bridge", "up")
}

func (n *network) device(node int) string {
	if node == clients {
		return n.name("c")
	}
	return "eth0"
}

// in runs ip for a node.
func (n *network) in(node int, args ...string) error {
	if node != clients {
		args = append([]string{"-n", n.namespace(node)}, args...)
	}
	return run("ip", args...)
}

// cut has all that one node sends to another lost. What comes from there still
// arrives.
func (n *network) cut(from, to int) error { return n.tell(from, to, nowhere) }

// mend ends cut.
func (n *network) mend(from, to int) error { return n.tell(from, to, n.hardware(to)) }

func (n *network) tell(from, to int, hardware string) error {
	return n.in(from, "neigh", "replace", n.address(to), "lladdr", hardware, "dev", n.device(from), "nud", "permanent")
}

// split cuts both directions between some members and all others. Clients reach
// all of them.
func (n *network) split(some ...int) error { return n.around(some, false, n.cut) }

// isolate cuts both directions between some members and everybody else.
func (n *network) isolate(some ...int) error { return n.around(some, true, n.cut) }

// around does something to all that leads from some nodes to the others, and
// back.
func (n *network) around(some []int, alsoClients bool, do func(from, to int) error) error {
	var errs []error
	for _, a := range n.nodes() {
		if slices.Contains(some, a) || a == clients && !alsoClients {
			continue
		}
		for _, b := range some {
			errs = append(errs, do(a, b), do(b, a))
		}
	}
	return errors.Join(errs...)
}

// heal mends everything.
func (n *network) heal() error {
	var errs []error
	for _, a := range n.nodes() {
		for _, b := range n.nodes() {
			if a != b {
				errs = append(errs, n.mend(a, b))
			}
		}
	}
	return errors.Join(errs...)
}

// clear removes all that carries this network's slot, with the processes that
// still live in it.
func (n *network) clear() error {
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return err
	}
	var mine []string
	for _, line := range strings.Split(string(out), "\n") {
		name, _, _ := strings.Cut(line, " ")
		if name == n.name("s") || strings.HasPrefix(name, n.name("m")) {
			mine = append(mine, name)
		}
	}
	var errs []error
	for _, name := range mine {
		errs = append(errs, killAll(name))
	}
	// Those that hang on a frozen disk end here.
	errs = append(errs, clearDisks(n.scratch()))
	for _, name := range mine {
		errs = append(errs, run("ip", "netns", "del", name))
	}
	if _, err := os.Stat("/sys/class/net/" + n.name("c")); err == nil {
		// It goes with the switch's namespace, but only soon.
		if err := run("ip", "link", "del", n.name("c")); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// killAll ends the members that a run which was killed itself has left in a
// namespace of this slot.
func killAll(namespace string) error {
	out, err := exec.Command("ip", "netns", "pids", namespace).Output()
	if err != nil {
		return err
	}
	for _, word := range strings.Fields(string(out)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return err
		}
		if pid == os.Getpid() { // With a thread.
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
