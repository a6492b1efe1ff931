package server

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeVariable makes this test binary play a member instead of running tests.
const fakeVariable = "PEBBLEDASH_FAKE_MEMBER"

func TestMain(m *testing.M) {
	if play := os.Getenv(fakeVariable); play != "" {
		os.Exit(fakeMember(play))
	}
	os.Exit(m.Run())
}

// fakeMember is a program that behaves as play says.
func fakeMember(play string) int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Fprintln(os.Stdout, "I am", play)
	switch play {
	case "refuses to start":
		fmt.Fprintln(os.Stderr, "no such flag")
		return 3
	case "is never ready":
		select {}
	case "says it in pieces":
		for _, piece := range []string{"ready to ser", "ve client", " requests\n"} {
			fmt.Fprint(os.Stderr, piece)
		}
	case "ends by itself":
		fmt.Fprintln(os.Stdout, readyLine)
		return 4
	case "says it on stdout":
		fmt.Fprintln(os.Stdout, readyLine)
	}
	<-term
	return 5
}

func fake(tb testing.TB, play string) Config {
	tb.Helper()
	exe, err := os.Executable()
	require.NoError(tb, err)
	return Config{
		Binary:  exe,
		DataDir: filepath.Join(tb.TempDir(), "data"),
		Env:     []string{fakeVariable + "=" + play},
	}
}

func TestStartReportsHowItFailed(t *testing.T) {
	_, err := Start(t.Context(), fake(t, "refuses to start"))
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, "no such flag", "the error quotes the log")

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = Start(ctx, fake(t, "is never ready"))
	require.ErrorIs(t, err, context.DeadlineExceeded)

	_, err = Start(t.Context(), Config{Binary: "/nonexistent", DataDir: t.TempDir()})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Start(t.Context(), Config{})
	require.Error(t, err)
}

func TestReadyLine(t *testing.T) {
	for _, play := range []string{"says it in pieces", "says it on stdout"} {
		t.Run(play, func(t *testing.T) {
			s := Run(t, fake(t, play))
			require.Positive(t, s.StartDuration())
			require.Contains(t, s.LogTail(), "I am "+play)
		})
	}
}

func TestLifecycle(t *testing.T) {
	s := Run(t, fake(t, "says it on stdout"))
	endpoint, first := s.Endpoint(), s.Pid()
	require.ErrorContains(t, s.Restart(t.Context()), "still runs")

	require.NoError(t, s.Kill())
	<-s.Exited()
	require.ErrorIs(t, syscall.Kill(first, 0), syscall.ESRCH, "it is gone")
	require.NoError(t, s.Kill(), "to kill twice is no error")
	require.NoError(t, s.Signal(syscall.SIGSTOP), "nor is a signal to what is gone")

	require.NoError(t, s.Restart(t.Context()))
	require.NotEqual(t, first, s.Pid())
	require.Equal(t, endpoint, s.Endpoint())

	state, err := s.Stop()
	require.NoError(t, err)
	require.Equal(t, 5, state.ExitCode(), "it saw SIGTERM")
}

func TestExitedTellsOfItsOwnEnd(t *testing.T) {
	s := Run(t, fake(t, "ends by itself"))
	<-s.Exited()
	state, err := s.Stop()
	require.NoError(t, err)
	require.Equal(t, 4, state.ExitCode())
}

func TestFreeAddrs(t *testing.T) {
	addrs, err := freeAddrs(20)
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, a := range addrs {
		require.False(t, seen[a])
		seen[a] = true
	}
}

func TestEnvironmentIsCleanOfEtcdsVariables(t *testing.T) {
	t.Setenv("ETCD_NAME", "someone else")
	cfg := Config{Env: []string{"A=b"}}
	for _, kv := range cfg.environ() {
		require.NotContains(t, kv, "ETCD_NAME")
	}
	require.Contains(t, cfg.environ(), "A=b")
}

// TestTarget runs the real program.
func TestTarget(t *testing.T) {
	bin, err := Resolve(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bin.Close()) })
	s := Run(t, Config{Binary: bin.Path})

	health := func() {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Endpoint()+"/health", http.NoBody)
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
	}
	health()
	require.NoError(t, s.Kill())
	require.NoError(t, s.Restart(t.Context()))
	health()
	_, err = s.Stop()
	require.NoError(t, err)
	t.Logf("%s was ready after %v", bin.Path, s.StartDuration())
}
