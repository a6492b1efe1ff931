//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pebbledash/pebbledash/benchmarks/record"
	"github.com/pebbledash/pebbledash/benchmarks/report"
)

// The commands that measure nothing, but look at what was kept.
const (
	goalsCommand = "goals"
	pageCommand  = "page"
)

// results reads what was kept, from the folder that args name.
func results(command string, args []string) (dir string, files []*record.File, err error) {
	flags := flag.NewFlagSet("benchmarks "+command, flag.ContinueOnError)
	flags.StringVar(&dir, "results", "results", "where results are kept")
	if err := flags.Parse(args); err != nil {
		return "", nil, err
	}
	files, err = record.ReadDir(dir)
	return dir, files, err
}

// goals prints which figures are reached.
func goals(args []string, out io.Writer) error {
	_, files, err := results(goalsCommand, args)
	if err != nil {
		return err
	}
	return report.WriteGoals(out, report.Judge(report.Goals, files))
}

// drawPage writes index.html beside the results.
func drawPage(args []string, progress io.Writer) error {
	dir, files, err := results(pageCommand, args)
	if err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(dir, "index.html"))
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "%s\n", file.Name())
	return errors.Join(report.Page(file, dir, files), file.Close())
}
