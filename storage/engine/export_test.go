package engine

import "github.com/cockroachdb/pebble/v2"

// What tests tell a database's listener.
type (
	WriteStallBeginInfo = pebble.WriteStallBeginInfo
	DiskSlowInfo        = pebble.DiskSlowInfo
)

// ListenerOf returns what is told of a database's events.
func ListenerOf(cfg Config) *pebble.EventListener { return listener(cfg) }
