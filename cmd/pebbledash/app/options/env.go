package options

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

const envPrefix = "ETCD_"

// ApplyEnv sets the flags that the command line did not give from their ETCD_
// variables: --data-dir is ETCD_DATA_DIR. A variable that is empty counts as
// not there. environ is what os.Environ returns.
//
// The warnings are about variables that have no effect, and hold no values. The
// error holds everything that is wrong.
func ApplyEnv(fs *pflag.FlagSet, environ []string) (warnings []string, err error) {
	var errs []error
	for _, kv := range environ {
		key, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(key, envPrefix) || value == "" {
			continue
		}
		name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(key, envPrefix), "_", "-"))
		flag := fs.Lookup(name)
		switch {
		case flag == nil || name == "version" || name == "help" || key != envName(name):
			warnings = append(warnings, "unrecognized environment variable "+key)
		case flag.Changed:
			warnings = append(warnings, fmt.Sprintf("environment variable %s is shadowed by flag --%s", key, name))
		default:
			if serr := fs.Set(name, value); serr != nil {
				errs = append(errs, fmt.Errorf("%s: %w", key, serr))
			}
		}
	}
	return warnings, errors.Join(errs...)
}

func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
