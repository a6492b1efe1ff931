//go:build linux

package main

import "io"

const (
	goalsCommand = "goals"
	pageCommand  = "page"
)

func goals(args []string, out io.Writer) error { return nil }

func drawPage(args []string, progress io.Writer) error { return nil }
