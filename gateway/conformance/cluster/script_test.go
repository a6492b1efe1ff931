package cluster

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// TestScripts runs testdata. Members are called m1, m2, ... from the start; a
// member has addresses before it is started. In the input of a command $m1 is
// the id of a member, $m1.peer its peer URL, $m1.client its client URL; $leader
// and $follower are those that the last command `leader` has found. The commands:
//
//	cluster    n=3 [tls] [without=m3]: m1 to mn form a new cluster; who is left out
//	           is one of them, but not started. The input are further flags, also
//	           for members that are started later
//	start      m4...: starts members that were added, or that have ended. The
//	           input are further flags. says=text: the member is to fail, or at
//	           least not to serve, and its log to hold the text, in which _
//	           is a space. strange: its certificates are of another authority.
//	           new: it takes the cluster for a new one
//	etcdctl    at=m1,...: each line of the input is a command line for etcdctl
//	           with the endpoints of all members that run, or of some. While
//	           retry=text stands in the output, the line is tried again
//	leader     waits until all members that run name the same leader, a voter
//	           that runs
//	hashes     compares the hash of all members at the current revision
//	stop       m1...: SIGTERM, and waits until they are gone
//	kill       m1...: SIGKILL
//	wipe       m1...: removes the data of members that have ended
//	move       m1...: gives members another peer URL, for their next start
//	exits      m1: waits until a member has ended by itself
//	handover   stops the leader, and measures until the others name another, at a
//	           greater term, and until it is gone
//	fill       key=/registry/pods/ size=100000: puts keys below that one until it is refused,
//	           and says why
//	shrink     deletes what fill has put, compacts at the newest revision, and defragments
//	put        n=1000 size=100: puts keys of all groups
func TestScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts dozens of members")
	}
	binary, err := server.Resolve(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, binary.Close()) })
	ctl, err := server.ResolvePeer(t.Context(), "etcdctl")
	require.NoError(t, err)
	scripts, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	for _, path := range scripts {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		if binary.Target == server.Etcd && strings.HasPrefix(name, "pebbledash") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := newSession(t, binary, ctl.Path)
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				t.Helper()
				s.t = t
				out := s.command(t, d)
				t.Logf("%s: %s\n%s----\n%s", d.Pos, d.Cmd, d.Input, out)
				return out
			})
		})
	}
}

// command runs one command of a script.
func (s *session) command(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	switch d.Cmd {
	case "cluster":
		n, without := 3, ""
		d.MaybeScanArgs(t, "n", &n)
		d.MaybeScanArgs(t, "without", &without)
		s.flags = strings.Fields(s.expand(d.Input))
		return s.newCluster(n, d.HasArg("tls"), without)
	case "start":
		var says string
		d.MaybeScanArgs(t, "says", &says)
		flags := strings.Fields(s.expand(d.Input))
		if d.HasArg("strange") {
			flags = append(flags, newAuthority(t, s.folder).flags()...)
		}
		state := "existing"
		if d.HasArg("new") {
			state = "new"
		}
		return s.start(names(d), state, flags, strings.ReplaceAll(says, "_", " "))
	case "etcdctl":
		var at, retry string
		d.MaybeScanArgs(t, "at", &at)
		d.MaybeScanArgs(t, "retry", &retry)
		var out strings.Builder
		for line := range strings.Lines(d.Input) {
			out.WriteString(s.etcdctl(strings.TrimSuffix(line, "\n"), at, strings.ReplaceAll(retry, "_", " ")))
		}
		return out.String()
	case "leader":
		return s.agree()
	case "hashes":
		return s.hashes()
	case "stop":
		return s.each(names(d), "is gone", s.stop)
	case "kill":
		return s.each(names(d), "is gone", func(m *member) error { return m.srv.Kill() })
	case "wipe":
		return s.each(names(d), "has no data", s.wipe)
	case "move":
		return s.each(names(d), "has another peer URL", s.move)
	case "exits":
		return s.exits(names(d)[0])
	case "handover":
		return s.handover()
	case "put":
		n, size := 1000, 100
		d.MaybeScanArgs(t, "n", &n)
		d.MaybeScanArgs(t, "size", &size)
		return s.put(n, size)
	case "fill":
		key, size := "/registry/pods/", 100_000
		d.MaybeScanArgs(t, "key", &key)
		d.MaybeScanArgs(t, "size", &size)
		return s.fill(key, size)
	case "shrink":
		return s.shrink()
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
		return ""
	}
}

// names are a command's arguments that are members.
func names(d *datadriven.TestData) []string {
	var members []string
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 && !slices.Contains([]string{"tls", "strange", "new"}, a.Key) {
			members = append(members, a.Key)
		}
	}
	return members
}
