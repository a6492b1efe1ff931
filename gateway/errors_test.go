package gateway

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pebbledash/pebbledash/storage/mvcc"
)

// notShown are the sentinels below storage that no request meets, and why.
var notShown = map[string]string{
	"backup.ErrDamaged":          "restoring fails with it, without a server",
	"engine.ErrNotFound":         "mvcc turns it into an absent key",
	"evaluate.ErrCrossing":       "asks the member to run the request over several groups; it does",
	"evaluate.ErrDrain":          "asks the group to wait; it does",
	"evaluate.ErrRecordsChanged": "who has checked or written by them does it again",
	"group.ErrNoReplica":         "--force-new-cluster fails with it",
	"member.ErrLocked":           "opening fails with it",
	"peer.ErrBusy":               "the member looks for the sequencer again",
	"peer.ErrNotSent":            "the member looks for the sequencer again",
	"peer.ErrUnknown":            "the member makes it group.ErrLeaderChanged",
	"peer.ErrClusterMismatch":    "a connection ends with it, before any call",
	"peer.ErrMemberMismatch":     "a connection ends with it, before any call",
	"peer.ErrVersionMismatch":    "a connection ends with it, before any call",
	"peer.ErrProtocol":           "another member's fault, for which there is only its text",
	"repository.ErrInUse":        "only commands use repositories, without a server",
	"wire.ErrMalformed":          "another member's fault, for which there is only its text",
}

// TestEverySentinelHasARow reads the storage's sources for exported errors.
func TestEverySentinelHasARow(t *testing.T) {
	inTable := selectors(t, "errors.go")
	found := map[string]bool{}
	root := filepath.Join("..", "storage")
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "testdata" || entry.Name() == "sim"):
			return filepath.SkipDir // The simulator's model has errors of its own.
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		for _, name := range sentinels(t, path) {
			found[name] = true
			_, hidden := notShown[name]
			if !inTable[name] && !hidden {
				t.Errorf("%s: %s has no row in errors.go", path, name)
			}
			if inTable[name] && hidden {
				t.Errorf("%s: %s has a row and is listed as not shown", path, name)
			}
		}
		return nil
	}))
	require.NotEmpty(t, found)
	for name := range notShown {
		require.Contains(t, found, name, "listed as not shown, and does not exist")
	}
}

// sentinels returns the exported package-level variables named Err... of a file.
func sentinels(t *testing.T, path string) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	for _, decl := range file.Decls {
		vars, ok := decl.(*ast.GenDecl)
		if !ok || vars.Tok != token.VAR {
			continue
		}
		for _, spec := range vars.Specs {
			for _, name := range spec.(*ast.ValueSpec).Names {
				if strings.HasPrefix(name.Name, "Err") {
					names = append(names, file.Name.Name+"."+name.Name)
				}
			}
		}
	}
	return names
}

// selectors returns all x.Y of a file.
func selectors(t *testing.T, path string) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	names := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok {
				names[x.Name+"."+sel.Sel.Name] = true
			}
		}
		return true
	})
	return names
}

func TestToGRPC(t *testing.T) {
	require.NoError(t, toGRPC(nil))
	for _, row := range rows {
		require.Equal(t, row.grpc, toGRPC(row.storage))
		require.Equal(t, row.grpc, toGRPC(fmt.Errorf("wrapped: %w", row.storage)))
	}
	require.Equal(t, rpctypes.ErrGRPCCompacted, toGRPC(fmt.Errorf("at 5: %w", mvcc.ErrCompacted)))
	require.Equal(t, codes.Unknown, status.Code(toGRPC(errors.New("what?"))))
	require.Equal(t, rpctypes.ErrGRPCNoSpace, toGRPC(rpctypes.ErrGRPCNoSpace), "what is gRPC's already passes")

	require.Equal(t, codes.OK, codeOf(nil))
	require.Equal(t, codes.Canceled, codeOf(context.Canceled))
	require.Equal(t, codes.DeadlineExceeded, codeOf(context.DeadlineExceeded))
	require.Equal(t, codes.OutOfRange, codeOf(rpctypes.ErrGRPCCompacted))
}
