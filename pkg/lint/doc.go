// Package lint holds the house rules that a machine can check without any tool
// but the go command: which way imports point, who may import what, and what
// packages may not be called. It has only tests.
package lint
