//go:build linux

package overload

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMainArgs(t *testing.T) {
	for _, bad := range []string{"", "nodes a 1s", "nodes a 1s x", "crowd a 1s 1s"} {
		require.Error(t, Main(t.Context(), strings.Fields(bad), nil), bad)
	}
}

// What began while it was measured counts; refusals are no errors.
func TestAnswered(t *testing.T) {
	now := time.Now()
	c := &client{from: now, to: now.Add(time.Second)}
	require.NoError(t, c.answered(nil, now.Add(-1)))
	require.NoError(t, c.answered(nil, now))
	require.NoError(t, c.answered(status.Error(codes.ResourceExhausted, ""), now))
	require.ErrorIs(t, c.answered(context.Canceled, now), context.Canceled)
	require.Equal(t, int64(1), c.done.Load())
	require.Equal(t, int64(1), c.refused.Load())
}
