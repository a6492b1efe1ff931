package svg

import "slices"

// The order and the colours of servers, the same everywhere; who is not there is grey.
var peerColors = []struct{ peer, color string }{
	{"pebbledash", "#1f63b5"},
	{"four-groups", "#1f63b5"},
	{"pebbledash-overrides", "#6fb1e0"},
	{"one-group", "#6fb1e0"},
	{"etcd", "#d9730d"},
	{"etcd-overrides", "#f2b266"},
	{"kine", "#3f8f3a"},
}

const otherColor = "#777777"

// ColorOf is a server's.
func ColorOf(peer string) string {
	for _, p := range peerColors {
		if p.peer == peer {
			return p.color
		}
	}
	return otherColor
}

// Rank orders servers as their colours are.
func Rank(peer string) int {
	i := slices.IndexFunc(peerColors, func(p struct{ peer, color string }) bool { return p.peer == peer })
	if i < 0 {
		return len(peerColors)
	}
	return i
}
