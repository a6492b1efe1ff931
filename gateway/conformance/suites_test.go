package conformance

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const suitesPackage = "k8s.io/apiserver/pkg/storage/testing"

// fromMemory is why suites that break the transformer under a store cannot be
// run over the watch cache.
const fromMemory = "the cache answers from objects it has read before, so it does not see the transformer fail; upstream does not run it either"

// notRun lists the suites that a layer does not run, and why. The files are
// those that run the others.
var notRun = map[string]map[string]string{
	"etcd3_test.go": {
		"RunTestOptionalWatchBookmarksWithCorrectResourceVersion": "bookmarks while objects are written are the cache's; upstream runs it there only",
	},
	"cacher_test.go": {
		"RunTestListInconsistentContinuation":   "expects the pages of the store; the cache gives the list whole; upstream does not run it either (kubernetes issue 109831)",
		"RunOptionalTestProgressNotify":         "the cache sends bookmarks at times of its own instead; upstream does not run it either",
		"RunTestTransformationFailure":          fromMemory,
		"RunTestWatchError":                     fromMemory,
		"RunTestGetListWithErrorAggregation":    fromMemory,
		"RunTestGetListWithoutErrorAggregation": fromMemory,
		"RunTestWatchWithUnsafeDelete":          fromMemory,
		"RunWatchErrorIsBlockingFurtherEvents":  fromMemory,
	},
}

// Every suite that Kubernetes exports is run over each layer, or has a row in
// notRun. So an upgrade of k8s.io/apiserver cannot bring one that is left out
// in silence.
func TestNoSuiteIsForgotten(t *testing.T) {
	suites := exportedSuites(t)
	t.Logf("%d suites", len(suites))
	require.Greater(t, len(suites), 50)
	for file, exceptions := range notRun {
		t.Run(file, func(t *testing.T) {
			once(t)
			called := suitesCalled(t, file)
			for name, reason := range exceptions {
				require.Contains(t, suites, name, "notRun names a suite that there is not")
				require.NotContains(t, called, name, "it is run, so notRun should not name it")
				require.NotEmpty(t, reason)
			}
			for _, name := range slices.Sorted(maps.Keys(suites)) {
				if !called[name] && exceptions[name] == "" {
					t.Errorf("%s.%s is neither run in %s nor listed in notRun", suitesPackage, name, file)
				}
			}
			for name := range called {
				require.Contains(t, suites, name)
			}
		})
	}
}

// README.md names every case and every suite that is left out.
func TestReadmeNamesWhatIsSkipped(t *testing.T) {
	once(t)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	page := strings.Join(strings.Fields(string(readme)), " ")
	for _, s := range skips {
		require.Contains(t, page, "`"+s.name+"` | "+s.reason)
	}
	for _, exceptions := range notRun {
		for name, reason := range exceptions {
			require.Contains(t, page, "`"+name+"`")
			require.Contains(t, page, "| "+reason+" |")
		}
	}
}

// exportedSuites reads the names of the suites from the package's source.
func exportedSuites(t *testing.T) map[string]bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", suitesPackage).Output()
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "*.go"))
	require.NoError(t, err)
	suites := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, decl := range parse(t, file).Decls {
			f, ok := decl.(*ast.FuncDecl)
			if ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Run") && takesTest(f) {
				suites[f.Name.Name] = true
			}
		}
	}
	return suites
}

// takesTest says whether a function has a parameter of type *testing.T or
// testing.TB; benchmarks have none.
func takesTest(f *ast.FuncDecl) bool {
	return slices.ContainsFunc(f.Type.Params.List, func(p *ast.Field) bool {
		typ := p.Type
		if star, ok := typ.(*ast.StarExpr); ok {
			typ = star.X
		}
		sel, ok := typ.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		pkg, ok := sel.X.(*ast.Ident)
		return ok && pkg.Name == "testing" && (sel.Sel.Name == "T" || sel.Sel.Name == "TB")
	})
}

// suitesCalled finds the calls of storagetesting.Run... in a file of ours.
func suitesCalled(t *testing.T, file string) map[string]bool {
	t.Helper()
	parsed := parse(t, file)
	imported := slices.ContainsFunc(parsed.Imports, func(i *ast.ImportSpec) bool {
		path, err := strconv.Unquote(i.Path.Value)
		return err == nil && path == suitesPackage && i.Name != nil && i.Name.Name == "storagetesting"
	})
	require.True(t, imported)
	called := map[string]bool{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok && strings.HasPrefix(sel.Sel.Name, "Run") {
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "storagetesting" {
				called[sel.Sel.Name] = true
			}
		}
		return true
	})
	return called
}

func parse(t *testing.T, file string) *ast.File {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	return parsed
}
