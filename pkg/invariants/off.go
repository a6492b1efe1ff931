//go:build !invariants && !race

package invariants

// Enabled is false in this build: costly assertions do not run.
const Enabled = false
