// Package migrationpb is the Migration service, by which a running cluster takes over
// what another one does: Pebbledash's own, etcd has none like it. All but this file is
// made by gateway/protogen from migration.proto.
package migrationpb

//go:generate go run -C ../protogen .
