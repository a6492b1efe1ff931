package member_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/auth"
	"github.com/pebbledash/pebbledash/storage/evaluate"
)

// unzip returns the content of a file of testdata/etcd.
func unzip(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	content, err := io.ReadAll(z)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return content
}

// TestRestoreOfOlder restores snapshots of older etcds (testdata/etcd/make.sh), and
// compares with what their clients saw.
func TestRestoreOfOlder(t *testing.T) {
	files, err := filepath.Glob("testdata/etcd/*.db.gz")
	require.NoError(t, err)
	require.Len(t, files, 3)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".db.gz")
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			require.NoError(t, os.WriteFile(path, unzip(t, file), 0o600))
			m := restored(t, path, nil)
			defer func() { require.NoError(t, m.Close()) }()
			version, rows, err := m.RecordsNow(t.Context(), auth.Table)
			require.NoError(t, err)
			users, err := auth.Load(version, rows)
			require.NoError(t, err)
			buckets, err := users.Buckets()
			require.NoError(t, err)

			seen := map[string]int{}
			for line := range strings.Lines(string(unzip(t, strings.TrimSuffix(file, ".db.gz")+".txt.gz"))) {
				kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
				seen[kind]++
				switch kind {
				case "rev":
					var want struct {
						KVs []struct {
							Key, Value []byte
							Create     int64 `json:"create_revision"`
							Mod        int64 `json:"mod_revision"`
							Version    int64
							Lease      int64
						}
					}
					var rev int64
					_, err := fmt.Fscan(bufio.NewReader(strings.NewReader(rest)), &rev)
					require.NoError(t, err)
					_, text, _ := strings.Cut(rest, " ")
					require.NoError(t, json.Unmarshal([]byte(text), &want))
					got, err := m.Read(t.Context(), &evaluate.Range{Key: []byte{0}, End: []byte{0}, Revision: rev}, false)
					require.NoError(t, err)
					require.Len(t, got.KVs, len(want.KVs))
					for i, w := range want.KVs {
						kv := got.KVs[i]
						require.Equal(t, string(w.Key), string(kv.Key))
						require.Equal(t, string(w.Value), string(kv.Value))
						require.Equal(t, []int64{w.Create, w.Mod, w.Version, w.Lease},
							[]int64{kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease})
					}
				case "lease":
					var want struct {
						ID      int64
						Granted int64 `json:"granted-ttl"`
						Keys    [][]byte
					}
					require.NoError(t, json.Unmarshal([]byte(rest), &want))
					got, err := m.LeaseTimeToLive(t.Context(), want.ID, true)
					require.NoError(t, err)
					require.Equal(t, want.Granted, got.GrantedTTL)
					slices.SortFunc(want.Keys, slices.Compare)
					require.Equal(t, want.Keys, got.Keys)
				case "user":
					who, text, _ := strings.Cut(rest, " ")
					var want struct{ Roles []string }
					require.NoError(t, json.Unmarshal([]byte(text), &want))
					var got authpb.User
					require.NoError(t, proto.Unmarshal(buckets["authUsers"][who], &got))
					require.Equal(t, want.Roles, got.Roles)
				default:
					t.Fatalf("line %q", line)
				}
			}
			require.Equal(t, 2, seen["user"])
			require.Equal(t, 1, seen["lease"])
			require.Greater(t, seen["rev"], 30)
			require.Contains(t, buckets["authRoles"], "reader")
			_, err = m.Read(t.Context(), &evaluate.Range{Key: []byte("a"), Revision: 29}, false)
			require.Error(t, err, "it is compacted")
		})
	}
}
