package alarm_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/pebbledash/pebbledash/storage/alarm"
)

func TestRows(t *testing.T) {
	for _, a := range []alarm.Alarm{
		{Kind: alarm.NoSpace, Member: 0xab},
		{Kind: alarm.NoSpace, Member: 1 << 63, Group: "events"},
		{Kind: alarm.Corrupt},
	} {
		got, ok := alarm.Parse(a.Row())
		require.True(t, ok, a.Row())
		require.Equal(t, a, got)
		require.Equal(t, pb.AlarmType(a.Kind).String(), a.Kind.String())
	}
	for _, row := range []string{"", "NOSPACE", "NOSPACE/", "NOSPACE/x", "NONE/1", "/1", "3/1"} {
		_, ok := alarm.Parse(row)
		require.False(t, ok, row)
	}
}

// TestBuckets goes to etcd's rows and back.
func TestBuckets(t *testing.T) {
	buckets := alarm.Buckets(map[string][]byte{"NOSPACE/ab": {}, "NOSPACE/ab/events": {}, "CORRUPT/0": {}, "else": {}})
	var want []string
	for _, m := range []*pb.AlarmMember{{MemberID: 0xab, Alarm: pb.AlarmType_NOSPACE}, {Alarm: pb.AlarmType_CORRUPT}} {
		key, err := proto.Marshal(m)
		require.NoError(t, err)
		want = append(want, string(key))
	}
	var got []string
	for key, value := range buckets["alarm"] {
		require.Empty(t, value)
		got = append(got, key)
	}
	require.ElementsMatch(t, want, got)

	rows, err := alarm.FromBuckets(buckets)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"NOSPACE/ab", "CORRUPT/0"}, rows)

	rows, err = alarm.FromBuckets(nil)
	require.NoError(t, err)
	require.Empty(t, rows)
	for _, bad := range []string{"", "\x08", "\x10\x07", "\xff"} {
		_, err := alarm.FromBuckets(map[string]map[string][]byte{"alarm": {bad: nil}})
		require.Error(t, err, "%x", bad)
	}
}
