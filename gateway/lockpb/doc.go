// Package lockpb is etcd's Lock service, v3lockpb.Lock, whose Go code etcd has in its
// server. All but this file is made by gateway/protogen from lock.proto.
package lockpb

//go:generate go run -C ../protogen .
