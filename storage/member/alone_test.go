package member_test

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/pkg/clock"
	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
)

// The only member leads again without a tick, also where its log has a change of the
// members that the state has lost: it has told its name and client URLs by one.
func TestRestartAlone(t *testing.T) {
	fs := engine.NewCrashableMem()
	open := func(clk clock.Clock) *member.Member {
		m, err := member.Open(t.Context(), member.Config{
			Dir: "data", FS: fs, Name: "a", InitialCluster: "a=http://127.0.0.1:2380", ClientURLs: []string{"http://127.0.0.1:2379"},
			CacheBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler), Clock: clk,
		})
		require.NoError(t, err)
		<-m.Ready()
		return m
	}
	m := open(clock.Real{})
	// Many at a time, so that the log gets to know what is committed.
	var puts sync.WaitGroup
	for range 20 {
		puts.Go(func() {
			for range 20 {
				_, err := m.Do(t.Context(), &evaluate.Put{Key: []byte("k")})
				assert.NoError(t, err)
			}
		})
	}
	puts.Wait()
	crashed := fs.CrashClone(engine.CrashCloneCfg{})
	require.NoError(t, m.Close())
	fs = crashed
	m = open(clock.NewManual(time.Unix(0, 0)))
	require.EqualValues(t, 402, do(t, m, &evaluate.Put{Key: []byte("k")}).Revision)
	require.NoError(t, m.Close())
}
