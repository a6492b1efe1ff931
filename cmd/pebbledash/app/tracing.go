package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/component-base/tracing"
	tracingapi "k8s.io/component-base/tracing/api/v1"
	"sigs.k8s.io/yaml"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
)

// serviceName is what traces are of where --tracing-config-file says nothing.
const serviceName = "pebbledash"

// traces is where traces of requests go; nil is nowhere.
type traces struct {
	tracing.TracerProvider
	// perMillion is how many requests are traced besides those whose clients want it.
	perMillion int32
}

func (t *traces) provider() trace.TracerProvider {
	if t == nil {
		return nil
	}
	return t
}

func (t *traces) chance() int32 {
	if t == nil {
		return 0
	}
	return t.perMillion
}

// stop sends what is left, until ctx ends.
func (t *traces) stop(ctx context.Context) {
	if t != nil {
		_ = t.Shutdown(ctx)
	}
}

// newTraces returns where the configuration wants traces to go. It does not wait for
// a connection.
func newTraces(c *options.CompletedConfig, logger *slog.Logger) (*traces, error) {
	t := c.Tracing
	config := &tracingapi.TracingConfiguration{Endpoint: &t.Address, SamplingRatePerMillion: &t.TracesPerMillion}
	switch {
	case t.ConfigFile != "":
		var err error
		if config, err = readTracingConfig(t.ConfigFile); err != nil {
			return nil, err
		}
		t.ServiceName, t.InstanceID = serviceName, c.Name
	case t.Address == "":
		return nil, nil //nolint:nilnil // Nowhere.
	}
	var perMillion int32
	if config.SamplingRatePerMillion != nil {
		perMillion = *config.SamplingRatePerMillion
	}
	logTracing(logger)
	// Chance is ours, before anything is spent on a request that is not traced: of
	// what comes through, all is.
	all := int32(1_000_000)
	config.SamplingRatePerMillion = &all
	of := []attribute.KeyValue{attribute.String("service.name", t.ServiceName)}
	if t.InstanceID != "" {
		of = append(of, attribute.String("service.instance.id", t.InstanceID))
	}
	provider, err := tracing.NewProvider(context.Background(), config, nil,
		[]resource.Option{resource.WithAttributes(of...)})
	if err != nil {
		return nil, fmt.Errorf("cannot trace: %w", err)
	}
	return &traces{provider, perMillion}, nil
}

// tracingConfigFile is kube-apiserver's, of which all versions are the same.
type tracingConfigFile struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`

	tracingapi.TracingConfiguration `json:",inline"`
}

func readTracingConfig(path string) (*tracingapi.TracingConfiguration, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--tracing-config-file: %w", err)
	}
	var file tracingConfigFile
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, fmt.Errorf("--tracing-config-file %s: %w", path, err)
	}
	group, version, _ := strings.Cut(file.APIVersion, "/")
	if group != "apiserver.config.k8s.io" || file.Kind != "TracingConfiguration" ||
		version != "v1" && version != "v1beta1" && version != "v1alpha1" {
		return nil, fmt.Errorf("--tracing-config-file %s: it is %s of %s, and must be TracingConfiguration of apiserver.config.k8s.io/v1, v1beta1 or v1alpha1",
			path, orNothing(file.Kind), orNothing(file.APIVersion))
	}
	errs := tracingapi.ValidateTracingConfiguration(&file.TracingConfiguration, nil, nil)
	if err := errs.ToAggregate(); err != nil {
		return nil, fmt.Errorf("--tracing-config-file %s: %w", path, err)
	}
	return &file.TracingConfiguration, nil
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// logTracing has OpenTelemetry, which has one logger for the process, say into ours
// what goes wrong with sending traces.
func logTracing(logger *slog.Logger) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		logger.Warn("traces were not sent", "error", err.Error())
	}))
}
