package options

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/pebbledash/pebbledash/storage/route"
)

// TestDataDriven replays testdata. The commands are:
//
//	parse   One flag or ETCD_ variable a line, as a shell would pass it. Prints
//	        every error, or each setting that is not the default.
//	help    Prints the flags by section. width=n is that of the terminal, or 0.
func TestDataDriven(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "parse":
				return runParse(d.Input)
			case "help":
				var width int
				d.ScanArgs(t, "width", &width)
				var b strings.Builder
				cliflag.PrintSections(&b, New().Flags(), width)
				return b.String()
			}
			d.Fatalf(t, "unknown command %q", d.Cmd)
			return ""
		})
	})
}

func runParse(input string) string {
	var args, environ []string
	for line := range strings.Lines(input) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, envPrefix) || strings.HasPrefix(line, "OTHER_") {
			environ = append(environ, line)
		} else {
			args = append(args, line)
		}
	}
	cfg, errs := parse(args, environ)
	var b strings.Builder
	for _, err := range errs {
		fmt.Fprintf(&b, "error: %v\n", err)
	}
	if errs == nil {
		standard, _ := parse(nil, nil)
		printDifference(&b, "", reflect.ValueOf(*standard), reflect.ValueOf(*cfg))
	}
	if b.Len() == 0 {
		return "the defaults\n"
	}
	return b.String()
}

// parse does what the command does with its arguments.
func parse(args, environ []string) (*CompletedConfig, []error) {
	o := New()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, section := range o.Flags().FlagSets {
		fs.AddFlagSet(section)
	}
	if err := fs.Parse(DoubleDash(fs, args)); err != nil {
		return nil, []error{err}
	}
	warnings, err := ApplyEnv(fs, environ)
	if err != nil {
		return nil, []error{err}
	}
	c := o.Complete(fs.Changed)
	if errs := c.Validate(); errs != nil {
		return nil, errs
	}
	cfg := c.Config()
	cfg.Warnings = append(warnings, cfg.Warnings...)
	return cfg, nil
}

func printDifference(b *strings.Builder, prefix string, standard, v reflect.Value) {
	for i := range v.NumField() {
		name, was, is := prefix+v.Type().Field(i).Name, standard.Field(i), v.Field(i)
		switch x := is.Interface().(type) {
		case []url.URL:
			if urls := URLs(x); !reflect.DeepEqual(was.Interface(), x) {
				fmt.Fprintf(b, "%s: %s\n", name, urls.String())
			}
		case []GroupURL:
			if urls := GroupURLs(x); len(x) > 0 {
				fmt.Fprintf(b, "%s: %s\n", name, urls.String())
			}
		case cliflag.NamedFlagSets:
		case []uint16:
			if !slices.Equal(was.Interface().([]uint16), x) {
				fmt.Fprintf(b, "%s: %x\n", name, x)
			}
		case *route.Table:
			if !x.Equal(was.Interface().(*route.Table)) {
				fmt.Fprintf(b, "%s: %s\n", name, x)
			}
		case route.Numbers:
			if !slices.Equal(was.Interface().(route.Numbers), x) {
				fmt.Fprintf(b, "%s: %s\n", name, x)
			}
		case map[string]int64:
			if len(x) > 0 {
				fmt.Fprintf(b, "%s: %v\n", name, x)
			}
		case []string:
			if !slices.Equal(was.Interface().([]string), x) {
				fmt.Fprintf(b, "%s: %s\n", name, strings.Join(x, "; "))
			}
		default:
			if is.Kind() == reflect.Struct {
				printDifference(b, name+".", was, is)
			} else if was.Interface() != x {
				fmt.Fprintf(b, "%s: %v\n", name, x)
			}
		}
	}
}

// What Config returns shares nothing with the options it came from.
func TestConfigIsACopy(t *testing.T) {
	o := New()
	c := o.Complete(func(string) bool { return false })
	require.Empty(t, c.Validate())
	c.Config().ListenClientURLs[0].Host = "changed"
	require.Equal(t, "http://localhost:2379", o.Client.ListenURLs.String())
}

func TestElectionTicks(t *testing.T) {
	cfg, errs := parse([]string{"--heartbeat-interval=150", "--election-timeout=1000"}, nil)
	require.Empty(t, errs)
	require.Equal(t, 6, cfg.ElectionTicks())
}

func FuzzGroupURLs(f *testing.F) {
	f.Add("events=http://127.0.0.1:2479,pods=https://[::1]:1")
	f.Add("=,")
	f.Fuzz(func(t *testing.T, s string) {
		var us, again GroupURLs
		if us.Set(s) != nil {
			return
		}
		// What was understood can be written and is understood to be the same.
		require.NoError(t, again.Set(us.String()))
		require.Equal(t, us.String(), again.String())
	})
}
