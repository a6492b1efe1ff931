// Package auth knows etcd's users, roles and permissions: who may do what.
//
// A [State] is what the rows of one table say (see [Load]), and never changes.
// A change of it is checked against a State and answered as the rows to write
// ([Write]); whoever asked has them replicated and loads the table again. Nothing
// here waits, reads files or knows of a network, but for what a caller hands in.
//
// Who is asking is an [Identity]: a user and the revision of the State in which
// they were recognised. It comes from a token ([Tokens]) or from elsewhere.
//
// Invariants:
//
//  1. Every change of users, roles, permissions and passwords raises the revision
//     by one. As in etcd switching authentication on does not, switching it off does.
//  2. A check refuses an Identity of an older revision than the State's
//     (ErrAuthOldRevision): what it was recognised by may be void.
//  3. A token ends with the password that it was given out for, with its user, and
//     with authentication.
//
// The errors are etcd's, with its texts: where etcd has no code for one, its text
// is what clients see. A change is refused if it names nothing (ErrUserEmpty,
// ErrRoleEmpty, ErrPermissionNotGiven), what is not there (ErrUserNotFound,
// ErrRoleNotFound, ErrRoleNotGranted, ErrPermissionNotGranted) or is there already
// (ErrUserAlreadyExist, ErrRoleAlreadyExist), if there is no root to switch
// authentication on for (ErrRootUserNotExist, ErrRootRoleNotExist), and if it would take
// from root while that is on, or grants no range (ErrInvalidAuthMgmt). A check refuses
// nobody with ErrUserEmpty, and others with ErrAuthOldRevision or ErrPermissionDenied;
// CheckAdmin, of a user that is gone, with ErrUserNotFound.
//
// A State and all Tokens may be used concurrently.
package auth
