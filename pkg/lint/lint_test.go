package lint

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/pebbledash/pebbledash"

// onlyIn lists who may import a package from outside this module. The key is
// an import path prefix, of which the longest counts; the values are our folders.
// Test files are exempt.
var onlyIn = map[string][]string{
	"go.etcd.io/raft/v3":                  {"storage/group"},
	"go.etcd.io/raft/v3/raftpb":           {"storage/group", "storage/member"},
	"github.com/cockroachdb/pebble":       {"storage/engine"},
	"go.etcd.io/bbolt":                    {"storage/backup"},
	"go.etcd.io/etcd/api/v3/etcdserverpb": {"gateway"},
	"github.com/grpc-ecosystem":           {"gateway"},
	"github.com/gorilla/websocket":        {"gateway"},
	"go.opentelemetry.io":                 {"gateway", "cmd"},
	"k8s.io/apiserver":                    {"gateway/admission", "gateway/serving", "gateway/conformance"},
	"k8s.io/component-base":               {"cmd", "gateway/serving", "gateway/conformance"},
}

// layer orders our top-level folders. A package may import its own layer or a
// lower one, never a higher one.
var layer = map[string]int{"pkg": 0, "storage": 1, "gateway": 2, "cmd": 3}

// before orders the rooms below the gateway. A room may import only rooms that
// stand later in the request's path.
var before = []string{
	"storage/inspect", "storage/member", "storage/peer", "storage/evaluate/wire", "storage/reign", "storage/group",
	"storage/evaluate", "storage/keyspace", "storage/revline", "storage/lease", "storage/repository", "storage/route",
	"storage/backup", "storage/bolt", "storage/mvcc", "storage/engine", "storage/auth",
	"storage/alarm",
}

// vague are names that say nothing about what is in a package.
var vague = []string{"util", "utils", "common", "helper", "helpers", "misc", "shared"}

type listed struct {
	ImportPath string
	Name       string
	Imports    []string
}

// list returns every package of the module, even those that do not compile:
// that is for the build to say.
func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Name,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	require.NoError(t, err)
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			require.NotEmpty(t, all)
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImportDirection(t *testing.T) {
	for _, p := range list(t) {
		from := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imp := range p.Imports {
			if msg := check(from, imp); msg != "" {
				t.Errorf("%s imports %s: %s", from, imp, msg)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, p := range list(t) {
		if slices.Contains(vague, p.Name) {
			t.Errorf("%s: a package's name says what is in it, and %q does not", p.ImportPath, p.Name)
		}
	}
}

func check(from, imp string) string {
	var longest string
	for prefix := range onlyIn {
		if strings.HasPrefix(imp, prefix) && len(prefix) > len(longest) {
			longest = prefix
		}
	}
	if folders := onlyIn[longest]; longest != "" && !within(from, folders) {
		return "only " + strings.Join(folders, ", ") + " may"
	}
	to, ours := strings.CutPrefix(imp, module+"/")
	if !ours {
		return ""
	}
	if _, known := layer[top(to)]; !known {
		return "no rule says who may; add one"
	}
	if top(from) != top(to) && layer[top(from)] <= layer[top(to)] {
		return "imports point from cmd to gateway to storage to pkg"
	}
	if i, j := room(from), room(to); i >= 0 && j >= 0 && j < i {
		return "a room imports only rooms that stand later in the path"
	}
	return ""
}

func top(p string) string { s, _, _ := strings.Cut(p, "/"); return s }

func room(p string) int {
	return slices.IndexFunc(before, func(r string) bool { return within(p, []string{r}) })
}

func within(p string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool {
		return p == f || strings.HasPrefix(p, f+"/")
	})
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		from, imp string
		ok        bool
	}{
		{"gateway", module + "/storage/mvcc", true},
		{"gateway", module + "/storage/member", true},
		{"cmd/pebbledash/app", module + "/gateway", true},
		{"gateway", module + "/cmd/pebbledash/app", false},
		{"gateway", module + "/internal/x", false},
		{"storage/mvcc", module + "/gateway", false},
		{"pkg/clock", module + "/storage/mvcc", false},
		{"storage/member", module + "/storage/group", true},
		{"storage/group", module + "/storage/member", false},
		{"storage/mvcc", module + "/storage/evaluate", false},
		{"storage/evaluate", module + "/storage/mvcc", true},
		{"storage/evaluate", module + "/storage/revline", true},
		{"storage/revline", module + "/storage/evaluate", false},
		{"storage/lease", module + "/storage/revline", false},
		{"storage/member", module + "/storage/peer", true},
		{"storage/peer", module + "/storage/member", false},
		{"storage/group", module + "/storage/peer", false},
		{"storage/reign", module + "/storage/group", true},
		{"storage/group", module + "/storage/reign", false},
		{"storage/evaluate/wire", module + "/storage/evaluate", true},
		{"storage/evaluate", module + "/storage/evaluate/wire", false},
		{"storage/keyspace", module + "/storage/route", true},
		{"storage/route", module + "/storage/keyspace", false},
		{"storage/evaluate", module + "/storage/keyspace", true},
		{"storage/mvcc", module + "/storage/keyspace", false},
		{"storage/member", "go.etcd.io/raft/v3/raftpb", true},
		{"storage/member", "go.etcd.io/raft/v3", false},
		{"storage/peer", "go.etcd.io/raft/v3/raftpb", false},
		{"storage/mvcc", "github.com/cockroachdb/pebble/v2", false},
		{"storage/engine", "github.com/cockroachdb/pebble/v2/vfs", true},
		{"gateway/router", "go.etcd.io/raft/v3", false},
		{"storage/mvcc", "go.etcd.io/etcd/api/v3/mvccpb", true},
		{"storage/mvcc", "go.etcd.io/etcd/api/v3/etcdserverpb", false},
		{"gateway/conformance", "k8s.io/apiserver/pkg/storage/testing", true},
		{"storage/member", "k8s.io/component-base/metrics", false},
		{"cmd/pebbledash/app/options", "k8s.io/component-base/cli/flag", true},
	} {
		if got := check(c.from, c.imp) == ""; got != c.ok {
			t.Errorf("check(%q, %q): allowed=%t, want %t", c.from, c.imp, got, c.ok)
		}
	}
}
