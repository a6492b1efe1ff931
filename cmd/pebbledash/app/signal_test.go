package app

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const signalHelper = "PEBBLEDASH_TEST_SIGNAL_HELPER"

// TestSignals sends signals to a process that waits as main does: the first one
// ends the context, the second one the process.
func TestSignals(t *testing.T) {
	if os.Getenv(signalHelper) != "" {
		ctx := StopOn(context.Background(), os.Interrupt, syscall.SIGTERM)
		fmt.Println("waiting")
		<-ctx.Done()
		fmt.Println("stopping")
		select {} // a stop that hangs
	}
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSignals$")
			cmd.Env = append(os.Environ(), signalHelper+"=1")
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := bufio.NewScanner(stdout)
			for _, want := range []string{"waiting", "stopping"} {
				require.True(t, lines.Scan())
				require.Equal(t, want, lines.Text())
				require.NoError(t, cmd.Process.Signal(sig))
			}
			require.False(t, lines.Scan())
			require.Error(t, cmd.Wait())
			require.Equal(t, exitFailed, cmd.ProcessState.ExitCode())
		})
	}
}
