package options

import (
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// otherDefaults are the flags whose defaults differ from etcd's, and why.
var otherDefaults = map[string]string{
	"initial-cluster": "it follows from --name and --initial-advertise-peer-urls",
}

// TestEveryFlagOfEtcd: each flag that `etcd --help` lists (etcdfiles/flags.txt,
// which gateway/conformance/etcdctl holds to the real etcd) is here, with its default,
// and the table of them is up to date. -rewrite writes it.
func TestEveryFlagOfEtcd(t *testing.T) {
	list, err := os.ReadFile("etcdfiles/flags.txt")
	require.NoError(t, err)
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	o := New()
	sections := o.Flags()
	sectionOf := map[string]string{}
	for _, name := range sections.Order {
		sections.FlagSets[name].VisitAll(func(f *pflag.Flag) { sectionOf[f.Name] = name })
		flags.AddFlagSet(sections.FlagSets[name])
	}

	var table strings.Builder
	table.WriteString(`# The flags of etcd

Every flag of etcd 3.7 and what it does here, in the words of ` + "`pebbledash --help`" + `. Each is
also a variable, ` + "`--data-dir`" + ` as ` + "`ETCD_DATA_DIR`" + `, and a key of ` + "`--config-file`" + `. Pebbledash has
more: see ` + "`pebbledash --help`" + `. This page is made by a test (cmd/pebbledash/app/options).

| flag | default | |
| --- | --- | --- |
`)
	for line := range strings.Lines(string(list)) {
		name, standard, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		f := flags.Lookup(name)
		if !assertFound(t, f, name) {
			continue
		}
		why, differs := otherDefaults[name]
		if !differs && standard != "" && !strings.HasPrefix(standard, "$") {
			require.Equal(t, normal(standard), normal(f.DefValue), "--%s has another default", name)
		}
		usage := f.Usage
		if differs {
			usage += fmt.Sprintf(" (etcd: `%s`; here %s.)", standard, why)
		}
		value := ""
		if f.DefValue != "" && f.DefValue != "[]" {
			value = "`" + f.DefValue + "`"
		}
		fmt.Fprintf(&table, "| `--%s` | %s | %s |\n", name, value, strings.ReplaceAll(usage, "|", "\\|"))
	}

	const page = "../../FLAGS.md"
	if r := flag.Lookup("rewrite"); r != nil && r.Value.String() == "true" {
		require.NoError(t, os.WriteFile(page, []byte(table.String()), 0o644))
	}
	have, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, table.String(), string(have), "run go test ./cmd/pebbledash/app/options -rewrite")
}

func assertFound(t *testing.T, f *pflag.Flag, name string) bool {
	t.Helper()
	if f == nil {
		t.Errorf("--%s of etcd is not here", name)
	}
	return f != nil
}

// normal writes a default so that 1m and 1m0s are the same.
func normal(v string) string {
	if v == "math.MaxUint32" { // as etcd prints it
		v = strconv.Itoa(math.MaxUint32)
	}
	v = strings.TrimSuffix(strings.TrimSuffix(v, "0s"), "0m")
	return strings.Trim(v, "[]")
}

func TestInheritedFlagsAreSorted(t *testing.T) {
	require.True(t, slices.IsSortedFunc(inheritedFlags, func(a, b inherited) int { return strings.Compare(a.name, b.name) }))
}

// TestConfigFile reads what etcd's own sample of a configuration file has, and refuses
// what is wrong in one.
func TestConfigFile(t *testing.T) {
	read := func(t *testing.T, file string) (*Options, error) {
		t.Helper()
		o := New()
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		for _, fs := range o.Flags().FlagSets {
			flags.AddFlagSet(fs)
		}
		return o, ApplyFile(flags, []byte(file))
	}
	file, err := os.ReadFile("etcdfiles/etcd.conf.yml")
	require.NoError(t, err)
	o, err := read(t, string(file))
	require.NoError(t, err)
	completed := o.Complete(func(string) bool { return true })
	require.Empty(t, completed.Validate())
	c := completed.Config()
	require.Equal(t, "infra1", c.Name)
	require.EqualValues(t, 4294967296, c.QuotaBytes)
	require.Equal(t, []string{"https://10.0.1.10:2379", "https://127.0.0.1:2379"}, Strings(c.ListenClientURLs))
	require.Equal(t, "/etc/etcd/server.crt", c.TLS.CertFile)
	require.Equal(t, "/etc/etcd/peer.crt", c.PeerTLS.CertFile)
	require.Equal(t, "/etc/etcd/ca.crt", c.TLS.TrustedCAFile)
	require.Equal(t, "1h0m0s", c.CompactionPeriod.String())
	require.Equal(t, "10m0s", c.WatchProgressNotifyInterval.String())
	require.Len(t, c.TLS.CipherSuites, 2)
	require.Contains(t, strings.Join(c.Warnings, "\n"), "--max-wals has no effect: ")

	for _, bad := range []struct{ file, want string }{
		{"nam: a", `nam: there is no such key`},
		{"name: a\nname: b", "already set"},
		{"heartbeat-interval: fast", "heartbeat-interval: invalid argument"},
		{"client-transport-security:\n  certfile: a", "client-transport-security.certfile: there is no such key"},
		{"client-transport-security: a", "client-transport-security must hold keys"},
		{"name: {a: b}", "name: must be a value or a list of values"},
		{"config-file: a", "config-file: there is no such key"},
		{"[", "yaml"},
	} {
		_, err := read(t, bad.file)
		require.ErrorContains(t, err, bad.want, bad.file)
	}
}
