// Package record is the form in which results are kept for programs, beside the text
// for people: lines of JSON, first what was measured on and how, then a line for each
// row of a table and server.
package record

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Suffix is how names of files of records end; the text beside one ends in .txt.
const Suffix = ".jsonl"

// File is one run.
type File struct {
	// Name is the file's, without Suffix.
	Name string `json:"-"`
	// Mode is what was run.
	Mode string `json:"mode"`
	// Last is the server that ratios are to.
	Last string `json:"last"`
	// About says on what machine, which versions, when.
	About [][2]string `json:"about"`
	Rows  []Row       `json:"-"`
}

// Row is a row of a table, of one server.
type Row struct {
	Sheet string `json:"sheet"`
	Title string `json:"title"`
	// First is what rows of this sheet differ in, and Row is this one's.
	First string `json:"first"`
	Row   string `json:"row"`
	Peer  string `json:"peer"`
	// Values are those of each turn, by the title of a column.
	Values Values `json:"values"`
}

// Values are measurements by column. What could not be measured is NaN, and null in
// JSON.
type Values map[string][]float64

// MarshalJSON writes null for what JSON has no number for.
func (v Values) MarshalJSON() ([]byte, error) {
	out := map[string][]*float64{}
	for name, xs := range v {
		out[name] = make([]*float64, len(xs))
		for i, x := range xs {
			if !math.IsNaN(x) && !math.IsInf(x, 0) {
				out[name][i] = &x
			}
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON has written.
func (v *Values) UnmarshalJSON(text []byte) error {
	var in map[string][]*float64
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	*v = Values{}
	for name, xs := range in {
		for _, x := range xs {
			if x == nil {
				nan := math.NaN()
				x = &nan
			}
			(*v)[name] = append((*v)[name], *x)
		}
	}
	return nil
}

// Write writes a file.
func (f *File) Write(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	if err := out.Encode(f); err != nil {
		return err
	}
	for _, r := range f.Rows {
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// maxLineBytes bounds a line of a file.
const maxLineBytes = 1 << 20

// Read reads a file.
func Read(name string, r io.Reader) (*File, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLineBytes)
	f := &File{Name: name}
	for n := 0; lines.Scan(); n++ {
		if n == 0 {
			if err := json.Unmarshal(lines.Bytes(), f); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			continue
		}
		var row Row
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", name, n+1, err)
		}
		f.Rows = append(f.Rows, row)
	}
	return f, lines.Err()
}

// ReadDir reads all files of a folder. Their names begin with their dates, so that
// the oldest comes first.
func ReadDir(dir string) ([]*File, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"+Suffix))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var files []*File
	for _, name := range names {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		f, err := Read(strings.TrimSuffix(filepath.Base(name), Suffix), file)
		if err != nil {
			return nil, err
		}
		if err := file.Close(); err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}
