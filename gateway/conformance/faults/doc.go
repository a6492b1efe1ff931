// Package faults is a cluster of real processes, in networks and on disks that
// fail, under clients who are shown to have been told the truth. It has only
// tests.
package faults
