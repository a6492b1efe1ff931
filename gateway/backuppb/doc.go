// Package backuppb is the service of backups, pebbledash.backup.v1.Backup, which is
// Pebbledash's own. All but this file is made by gateway/protogen from backup.proto.
package backuppb

//go:generate go run -C ../protogen .
