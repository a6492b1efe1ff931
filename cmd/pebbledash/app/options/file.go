package options

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// ConfigFileFlag names a file that says everything: as in etcd, other flags and the
// environment do not count beside it.
const ConfigFileFlag = "config-file"

// securitySections are the keys of etcd's configuration file that hold further keys,
// with what the names of the flags begin with.
var securitySections = map[string]string{"client-transport-security": "", "peer-transport-security": "peer-"}

// sectionKeys are the keys of those sections that are not the names of flags.
var sectionKeys = map[string]string{
	"peer-allowed-cn": "peer-cert-allowed-cn", "peer-allowed-hostname": "peer-cert-allowed-hostname",
	"allowed-hostname": "client-cert-allowed-hostname", "allowed-hostnames": "client-cert-allowed-hostname",
	"peer-allowed-hostnames": "peer-cert-allowed-hostname",
	"client-cert":            "client-cert-file", "client-key": "client-key-file",
	"crl-file": "client-crl-file",
	// In the section of peers: "client-cert-auth" and the like, with the prefix.
}

// ApplyFile sets flags from a configuration file of etcd, in YAML: the names of flags
// are its keys, lists may be lists, and what is about TLS is in
// client-transport-security and peer-transport-security. The error holds everything
// that is wrong.
func ApplyFile(fs *pflag.FlagSet, data []byte) error {
	var keys map[string]any
	if err := yaml.UnmarshalStrict(data, &keys); err != nil {
		return fmt.Errorf("--%s: %w", ConfigFileFlag, err)
	}
	var errs []error
	set := func(key, flag string, v any) {
		if err := setFromFile(fs, flag, v); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %s: %w", ConfigFileFlag, key, err))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		prefix, isSection := securitySections[key]
		if !isSection {
			set(key, key, keys[key])
			continue
		}
		section, ok := keys[key].(map[string]any)
		if !ok && keys[key] != nil {
			errs = append(errs, fmt.Errorf("--%s: %s must hold keys", ConfigFileFlag, key))
		}
		for _, inner := range slices.Sorted(maps.Keys(section)) {
			flag := prefix + inner
			if other, ok := sectionKeys[flag]; ok {
				flag = other
			}
			set(key+"."+inner, flag, section[inner])
		}
	}
	return errors.Join(errs...)
}

func setFromFile(fs *pflag.FlagSet, name string, v any) error {
	flag := fs.Lookup(name)
	if flag == nil || name == ConfigFileFlag || name == "version" || name == "help" {
		return errors.New("there is no such key")
	}
	text, err := fileValue(flag, v)
	if err == nil {
		err = fs.Set(name, text)
	}
	return err
}

// fileValue writes a value of YAML as it is on the command line.
func fileValue(flag *pflag.Flag, v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return flag.DefValue, nil
	case bool:
		return strconv.FormatBool(v), nil
	case string:
		return v, nil
	case float64: // As JSON has numbers.
		if v != float64(int64(v)) {
			return strconv.FormatFloat(v, 'g', -1, 64), nil
		}
		if flag.Value.Type() == "duration" {
			return time.Duration(int64(v)).String(), nil // etcd's are in nanoseconds
		}
		return strconv.FormatInt(int64(v), 10), nil
	case []any:
		var parts []string
		for _, e := range v {
			part, err := fileValue(flag, e)
			if err != nil {
				return "", err
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, ","), nil
	}
	return "", errors.New("must be a value or a list of values")
}
