// Package invariants says whether costly assertions run in this build. Cheap
// ones always run and do not ask; costly ones stand behind Enabled, which is a
// constant, so that a release build contains no trace of them:
//
//	if invariants.Enabled {
//		s.checkEveryIndexEntry()
//	}
//
// The build tag `invariants` turns them on, and so does the race detector.
package invariants
