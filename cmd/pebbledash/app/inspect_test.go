package app

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/pebbledash/pebbledash/storage/engine"
	"github.com/pebbledash/pebbledash/storage/evaluate"
	"github.com/pebbledash/pebbledash/storage/member"
	"github.com/pebbledash/pebbledash/storage/mvcc"
	"github.com/pebbledash/pebbledash/storage/route"
)

// stored returns an object as kube-apiserver stores it.
func stored(t *testing.T, text string) []byte {
	t.Helper()
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(text), nil, nil)
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(obj, &b))
	require.True(t, bytes.HasPrefix(b.Bytes(), protobufMagic))
	return b.Bytes()
}

// storedUnknown is stored for a kind that this binary does not know: object's bytes
// under another name.
func storedUnknown(t *testing.T, object []byte) []byte {
	t.Helper()
	var u runtime.Unknown
	require.NoError(t, u.Unmarshal(bytes.TrimPrefix(object, protobufMagic)))
	u.APIVersion, u.Kind = "new.k8s.io/v9", "Novelty"
	b, err := u.Marshal()
	require.NoError(t, err)
	return append(append([]byte{}, protobufMagic...), b...)
}

// inspected makes a member's data directory and stops the member.
func inspected(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	routes, err := route.Parse(route.DefaultResourceGroups, "/registry")
	require.NoError(t, err)
	m, err := member.Open(t.Context(), member.Config{
		Dir: dir, Name: "a", InitialCluster: "a=http://127.0.0.1:2380", ClientURLs: []string{"http://127.0.0.1:2379"},
		Routes: routes, CacheBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler), Version: "1.2.3",
	})
	require.NoError(t, err)
	<-m.Ready()
	pod := stored(t, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"ns","labels":{"app":"x"}},
		"spec":{"containers":[{"name":"c","image":"i:1"}],"nodeName":"n"}}`)
	for _, op := range []evaluate.Op{
		&evaluate.LeaseGrant{ID: 0x4d, TTL: 1000},
		&evaluate.Put{Key: []byte("/registry/pods/ns/p"), Value: []byte("no object")},
		&evaluate.Put{Key: []byte("/registry/pods/ns/p"), Value: pod},
		&evaluate.Put{Key: []byte("/registry/new.k8s.io/n"), Value: storedUnknown(t, pod)},
		&evaluate.Put{Key: []byte("/registry/x.io/widgets/w"), Value: []byte(`{"apiVersion":"x.io/v1","kind":"Widget","spec":{"size":9007199254740993}}`)},
		&evaluate.Put{Key: []byte("/registry/leases/l"), Value: []byte("held"), Lease: 0x4d},
		&evaluate.Put{Key: []byte("bin\x01"), Value: []byte("\xff\x00")},
		&evaluate.DeleteRange{Key: []byte("bin\x01")},
		&evaluate.Put{Key: []byte("bin\x01"), Value: []byte("\xff\x01")},
		&evaluate.Put{Key: []byte("bad"), Value: []byte("k8s\x00nonsense")},
		&evaluate.Records{Table: "users", Writes: []mvcc.RecordWrite{{Key: "u", Value: []byte("x")}}},
	} {
		_, err := m.Do(t.Context(), op)
		require.NoError(t, err)
	}
	require.NoError(t, m.Close())
	return dir
}

// volatile is what depends on timing and on the file format.
var volatile = regexp.MustCompile(`entries \d+ to \d+`)

// The command "run" runs the command of its input, in which DIR is a data directory,
// and shows the exit code if it is not 0, and what it has written.
func TestInspect(t *testing.T) {
	dir := inspected(t)
	datadriven.RunTest(t, "testdata/inspect.txt", func(t *testing.T, d *datadriven.TestData) string {
		t.Helper()
		args := strings.Fields(strings.ReplaceAll(d.Input, "DIR", dir))
		for i, a := range args {
			args[i] = strings.ReplaceAll(a, `\1`, "\x01")
		}
		var out, errs bytes.Buffer
		code := Main(t.Context(), args, nil, &out, &errs)
		text := out.String() + errs.String()
		if code != 0 {
			text += "exit code " + string(rune('0'+code)) + "\n"
		}
		text = strings.ReplaceAll(text, dir, "DIR")
		return volatile.ReplaceAllString(text, "entries N to M")
	})
}

func TestInspectGroups(t *testing.T) {
	dir := inspected(t)
	code, stdout, stderr := runMain(t, nil, "groups", dir, "-w", "json")
	require.Zero(t, code, stderr)
	var r groupsReport
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	require.Equal(t, "a", r.Name)
	require.Equal(t, "1.2.3", r.CreatedBy)
	require.Equal(t, []memberReport{{r.MemberID, "a", []string{"http://127.0.0.1:2380"}, []string{"http://127.0.0.1:2379"}}}, r.Members)
	require.Len(t, r.Groups, 4)
	require.Equal(t, []recordReport{{"users", 1, 1}}, r.Groups[0].Records)
	for _, g := range r.Groups {
		require.Equal(t, g.LastIndex, g.AppliedIndex)
		require.Equal(t, []string{r.MemberID}, g.Voters)
	}
	code, stdout, _ = runMain(t, nil, "groups", dir)
	require.Zero(t, code)
	require.Regexp(t, `(?m)^GROUP +APPLIED +TERM +EPOCH +LOG +REVISION +COMPACTED +BYTES +ON DISK +VOTERS +LEARNERS$`, stdout)
	require.Regexp(t, `(?m)^pods +\d+ .* `+r.MemberID+` +-$`, stdout)
	require.Regexp(t, `(?m)^core +users +1 +1$`, stdout)
}

func TestInspectDamage(t *testing.T) {
	dir := inspected(t)
	tables, err := filepath.Glob(filepath.Join(dir, "state", "*.sst"))
	require.NoError(t, err)
	for _, name := range tables {
		require.NoError(t, os.Truncate(name, 100))
	}
	code, _, stderr := runMain(t, nil, "verify", dir)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "error: the data directory is damaged: ")
	require.Contains(t, stderr, "pebbledash snapshot restore")
}

// closedPipe is one that nobody reads any more.
type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}
}

func TestInspectBrokenPipe(t *testing.T) {
	dir := inspected(t)
	for _, args := range [][]string{{"dump", dir}, {"dump", dir, "-w", "table"}, {"history", dir, "bad"}, {"groups", dir}, {"verify", dir}} {
		var errs bytes.Buffer
		require.Zero(t, Main(t.Context(), args, nil, io.Writer(closedPipe{}), &errs), errs.String())
		require.Empty(t, errs.String())
	}
	// Damage is told by the exit code all the same.
	db, err := engine.Open(engine.Config{
		Dir: filepath.Join(dir, "state"), CacheBytes: 1 << 20, MemTableBytes: 1 << 20,
		Logger: slog.New(slog.DiscardHandler), Fatal: func(err error) { panic(err) },
	})
	require.NoError(t, err)
	require.NoError(t, db.Set(engine.AppendPrefix([]byte{0, 9, 'm', 'x'}), nil, engine.NoSync))
	require.NoError(t, db.Flush())
	require.NoError(t, db.Close())
	var errs bytes.Buffer
	require.Equal(t, exitFailed, Main(t.Context(), []string{"verify", dir}, nil, io.Writer(closedPipe{}), &errs))
	require.Contains(t, errs.String(), "is damaged (see above)")
}
