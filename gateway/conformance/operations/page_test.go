package operations

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// block is a piece of a page's script.
type block struct {
	// line is the number of its first line in the page.
	line int
	text string
}

// readPage returns the blocks of a page that are to be run.
func readPage(t *testing.T, path string) []block {
	t.Helper()
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	blocks, err := parsePage(string(page))
	require.NoError(t, err, path)
	return blocks
}

func parsePage(page string) ([]block, error) {
	ends := map[string]string{"```bash": "```", "<!-- run": "-->"}
	var blocks []block
	end, number := "", 0
	for line := range strings.Lines(page) {
		number++
		word := strings.TrimRight(line, " \n")
		switch {
		case end == "skip":
			if word == "```" {
				end = ""
			}
		case end != "" && word == end:
			end = ""
		case end != "":
			last := &blocks[len(blocks)-1]
			last.text += line
		case ends[word] != "":
			end = ends[word]
			blocks = append(blocks, block{line: number + 1})
		case strings.HasPrefix(word, "```"):
			end = "skip"
		}
	}
	switch {
	case end != "":
		return nil, fmt.Errorf("the block that ends with %q has no end", end)
	case len(blocks) == 0:
		return nil, fmt.Errorf("there is nothing to run")
	}
	return blocks, nil
}

// script makes one of blocks, which says where it fails.
func script(blocks []block) string {
	var b strings.Builder
	b.WriteString("set -Eeuo pipefail\ntrap 'echo \"the block at line $page_line fails at: $BASH_COMMAND\" >&2' ERR\n")
	for _, one := range blocks {
		fmt.Fprintf(&b, "page_line=%d\n%s\n", one.line, one.text)
	}
	return b.String()
}

func TestParsePage(t *testing.T) {
	blocks, err := parsePage("# Page\n\n```bash\na\nb\n```\n\n```text\nc\n```\n<!-- run\nd\n-->\n")
	require.NoError(t, err)
	require.Equal(t, []block{{4, "a\nb\n"}, {12, "d\n"}}, blocks)

	for _, broken := range []string{"# Page\n", "```bash\na\n", "```text\na\n", "<!-- run\na\n"} {
		_, err := parsePage(broken)
		require.Error(t, err, broken)
	}
}
