package manifests

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// checkContainerfile parses it as BuildKit does, and looks at what we promise of it.
func checkContainerfile(t *testing.T, content string) error {
	t.Helper()
	parsed, err := parser.Parse(strings.NewReader(content))
	if err != nil {
		return err
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return err
	}
	if len(stages) != 2 {
		return fmt.Errorf("there are %d stages", len(stages))
	}
	build, last := stages[0], stages[1]

	// The program is built with a Go that go.mod takes, on the Debian whose C library
	// the image has.
	toolchain := regexp.MustCompile(`/golang:(\d+\.\d+)\.\d+-bookworm$`).FindStringSubmatch(build.BaseName)
	wanted := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "../../../go.mod"))
	if toolchain == nil || toolchain[1] != wanted[1] {
		return fmt.Errorf("%s is not Go %s, pinned, on Debian 12", build.BaseName, wanted[1])
	}
	if !strings.HasSuffix(last.BaseName, "-debian12:nonroot") {
		return fmt.Errorf("%s has another C library, or a root", last.BaseName)
	}

	user := ""
	for _, c := range last.Commands {
		switch c := c.(type) {
		case *instructions.CopyCommand:
			if c.From != build.Name {
				return fmt.Errorf("there is no stage %q", c.From)
			}
		case *instructions.UserCommand:
			user = c.User
		case *instructions.RunCommand:
			return errors.New("there is no shell to run something with")
		case *instructions.EntrypointCommand:
			if c.PrependShell || len(c.CmdLine) != 1 || c.CmdLine[0] != "/usr/local/bin/pebbledash" {
				return fmt.Errorf("the entry point is %q", c.CmdLine)
			}
		case *instructions.CmdCommand:
			if c.PrependShell {
				return errors.New("there is no shell for CMD")
			}
			if err := parseFlags(c.CmdLine); err != nil {
				return err
			}
		}
	}
	if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(user) {
		return fmt.Errorf("the user is %q", user)
	}
	return nil
}
