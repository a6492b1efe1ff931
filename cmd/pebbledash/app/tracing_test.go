package app

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
)

func TestReadTracingConfig(t *testing.T) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\n"
	for _, c := range []struct{ name, file, fails string }{
		{"whole", head + "endpoint: 127.0.0.1:4317\nsamplingRatePerMillion: 100\n", ""},
		{"defaults", head, ""},
		{"json", `{"apiVersion":"apiserver.config.k8s.io/v1beta1","kind":"TracingConfiguration"}`, ""},
		{"alpha", "apiVersion: apiserver.config.k8s.io/v1alpha1\nkind: TracingConfiguration\n", ""},
		{"unknown version", "apiVersion: apiserver.config.k8s.io/v2\nkind: TracingConfiguration\n", "must be TracingConfiguration of apiserver.config.k8s.io/v1"},
		{"other kind", "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n", "it is AdmissionConfiguration of apiserver.config.k8s.io/v1, and must be"},
		{"empty", "", "it is nothing of nothing"},
		{"unknown field", head + "sampling: 1\n", `unknown field "sampling"`},
		{"rate", head + "samplingRatePerMillion: 1000001\n", "sampling rate per million must be less than or equal to one million"},
		{"endpoint", head + "endpoint: http://127.0.0.1:4317\n", "unsupported scheme: http"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "tracing.yaml")
			require.NoError(t, os.WriteFile(path, []byte(c.file), 0o600))
			_, err := readTracingConfig(path)
			if c.fails == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.fails)
				require.ErrorContains(t, err, "--tracing-config-file "+path)
			}
		})
	}
	_, err := readTracingConfig(filepath.Join(t.TempDir(), "missing"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestNewTraces(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	none, err := newTraces(&options.CompletedConfig{}, logger)
	require.NoError(t, err)
	require.Nil(t, none)
	require.Nil(t, none.provider(), "a nil provider, not one that holds nil")
	require.Zero(t, none.chance())
	none.stop(t.Context())

	to, err := newTraces(&options.CompletedConfig{
		Tracing: options.TracingConfig{Address: "127.0.0.1:1", ServiceName: "etcd", TracesPerMillion: 7},
	}, logger)
	require.NoError(t, err)
	require.NotNil(t, to.provider())
	require.EqualValues(t, 7, to.chance())
	to.stop(t.Context())
}
