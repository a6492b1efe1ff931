package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pebbledash/pebbledash/cmd/pebbledash/app/options"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// complete is what the command does between parsing and running.
func complete(o *options.Options, flags *pflag.FlagSet) error {
	return utilerrors.NewAggregate(o.Complete(flags.Changed).Validate())
}

func newFlags() (*options.Options, *pflag.FlagSet) {
	o, flags := options.New(), pflag.NewFlagSet("pebbledash", pflag.ContinueOnError)
	for _, set := range o.Flags().FlagSets {
		flags.AddFlagSet(set)
	}
	return o, flags
}

func parseFlags(args []string) error {
	o, flags := newFlags()
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	return complete(o, flags)
}

// lines are those of a file that are not empty and no comments.
func lines(content string) []string {
	var all []string
	for line := range strings.Lines(content) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all
}

func checkFlags(_ *testing.T, content string) error { return parseFlags(lines(content)) }

// checkEnv checks the variables of a member.
func checkEnv(_ *testing.T, content string) error {
	o, flags := newFlags()
	for _, line := range lines(content) {
		if !strings.HasPrefix(line, "ETCD_") {
			return fmt.Errorf("%q is no variable of ours", line)
		}
	}
	warnings, err := options.ApplyEnv(flags, lines(content))
	if err != nil {
		return err
	}
	if len(warnings) > 0 {
		return errors.New(strings.Join(warnings, ", "))
	}
	// All members are named alike.
	if got := flags.Lookup("initial-cluster").Value.String(); got != "m1=https://10.0.0.1:2380,m2=https://10.0.0.2:2380,m3=https://10.0.0.3:2380" {
		return fmt.Errorf("the cluster is %s", got)
	}
	return complete(o, flags)
}

// checkServerFlags has kube-apiserver parse its flags. It says its version then, and
// ends.
func checkServerFlags(t *testing.T, content string) error {
	t.Helper()
	script := read(t, "../../../benchmarks/peers/build.sh")
	version := regexp.MustCompile(`(?m)^readonly kube_version=(\S+)$`).FindStringSubmatch(script)
	require.NotNil(t, version)
	cache := os.Getenv("PEBBLEDASH_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		require.NoError(t, err)
		cache = filepath.Join(home, ".cache", "pebbledash")
	}
	server := filepath.Join(cache, "bin", "kube-apiserver-"+version[1])
	args := append(lines(content), "--version")
	if _, err := os.Stat(server); err != nil {
		return serverFlagsByName(t, args)
	}
	out, err := exec.CommandContext(t.Context(), server, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.SplitN(out, []byte("\n"), 2)[0])
	}
	if !bytes.HasPrefix(out, []byte("Kubernetes "+version[1])) {
		return fmt.Errorf("kube-apiserver says %q", out)
	}
	return checkOverrides(args)
}

// serverFlagsByName knows the names only, for where kube-apiserver was not built.
func serverFlagsByName(t *testing.T, args []string) error {
	t.Helper()
	t.Log("there is no kube-apiserver; make kube builds it")
	known := regexp.MustCompile(`^--(etcd-(servers|servers-overrides|cafile|certfile|keyfile)=.+|storage-backend=etcd3|version)$`)
	for _, arg := range args {
		if !known.MatchString(arg) {
			return fmt.Errorf("%s is not known", arg)
		}
	}
	return checkOverrides(args)
}

// checkOverrides looks whether overrides are what kube-apiserver says that they are, and
// whether a group's sockets are at their ports.
func checkOverrides(args []string) error {
	for _, arg := range args {
		list, ok := strings.CutPrefix(arg, "--etcd-servers-overrides=")
		if !ok {
			continue
		}
		for override := range strings.SplitSeq(list, ",") {
			if !regexp.MustCompile(`^[a-z0-9.]*/[a-z]+#https://[\d.]+:\d+(;https://[\d.]+:\d+)*$`).MatchString(override) {
				return fmt.Errorf("%q is no override", override)
			}
		}
	}
	return nil
}

// TestOverrides compares the ports of kube-apiserver's overrides with the member's.
func TestOverrides(t *testing.T) {
	overrides := read(t, root+"/kube-apiserver/overrides.flags")
	sockets := regexp.MustCompile(`(\w+)=(https://10\.0\.0\.1:\d+)`).FindAllStringSubmatch(
		read(t, root+"/kube-apiserver/overrides.pebbledash.flags"), -1)
	groups := 0
	for _, s := range sockets {
		if group, url := s[1], s[2]; group == "events" || group == "leases" || group == "pods" {
			require.Contains(t, overrides, "/"+group+"#"+url)
			groups++
		}
	}
	require.Equal(t, 3, groups)
}
