//go:build invariants || race

package invariants

// Enabled is true in this build: costly assertions run.
const Enabled = true
