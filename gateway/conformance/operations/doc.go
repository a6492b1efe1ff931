// Package operations runs the pages in manifests/operations, and the one in
// manifests/systemd, so that a page whose commands no longer work is noticed. It has
// tests only.
//
// A page's blocks that are marked as bash are one script, run from top to bottom, and
// ended by the first command that fails; blocks of other languages are for reading.
// What stands in a comment that begins with "run" is run too, in its place: checks that
// would bore a reader.
//
// The machines m1, m2, m3 that the pages speak of are this one: addresses and folders
// are replaced (see [machines]), ssh runs its command here, and systemctl starts what
// the unit in manifests/systemd says, with the variables of its env file.
package operations
