package member_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/route"
)

// problems runs all checks and returns what is wrong, by name.
func problems(t *testing.T, m *member.Member) map[string]string {
	t.Helper()
	wrong := map[string]string{}
	for _, c := range m.Checks() {
		if err := c.Run(t.Context()); err != nil {
			wrong[c.Name] = err.Error()
		}
	}
	return wrong
}

// smallDisk is a file system with so many bytes left.
type smallDisk struct {
	engine.FS
	left atomic.Uint64
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.left.Load(), TotalBytes: 1 << 30}, nil
}

func TestChecks(t *testing.T) { bothRoutes(t, testChecks) }

func testChecks(t *testing.T, routes *route.Table) {
	t.Helper()
	disk := &smallDisk{FS: engine.NewMem()}
	disk.left.Store(1 << 30)
	m := start(t, disk, routes)
	defer m.Close()
	var names []string
	for _, c := range m.Checks() {
		names = append(names, c.Name)
	}
	want := "group_core closed_revision disk"
	if routes != nil {
		want = "group_core group_events group_leases group_pods closed_revision disk"
	}
	require.Equal(t, want, strings.Join(names, " "))
	require.Empty(t, problems(t, m))
	disk.left.Store(60 << 20)
	require.Equal(t, map[string]string{"disk": "the file system is full: 60 MiB of 1024 MiB are left"}, problems(t, m))
}

// While the disk of the log stands still, the member says so.
func TestChecksOfAStalledLog(t *testing.T) {
	var stalls atomic.Bool
	release := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(release) })
	fs := engine.WrapFaulty(engine.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		syncs := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		if syncs && stalls.Load() && strings.HasPrefix(op.Path, "data/log/") {
			<-release
		}
		return nil
	}))
	m := start(t, fs, nil)
	defer m.Close()
	defer goOn()
	stalls.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	written := make(chan error, 1)
	go func() {
		_, err := m.Do(ctx, &evaluate.Put{Key: []byte("k")})
		written <- err
	}()
	require.Eventually(t, func() bool {
		return strings.HasPrefix(problems(t, m)["disk"], "the log has not been written for ")
	}, time.Minute, 10*time.Millisecond)
	stalls.Store(false)
	goOn()
	require.NoError(t, <-written)
	require.Eventually(t, func() bool { return len(problems(t, m)) == 0 }, time.Minute, 10*time.Millisecond)
}
