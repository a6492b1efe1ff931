package options

import "github.com/spf13/pflag"

// GlobalOptions are about the command itself. Of them only --config-file has an ETCD_ variable.
type GlobalOptions struct {
	ConfigFile string
	Version    bool
	Help       bool
}

// AddFlags adds the section's flags to fs.
func (o *GlobalOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.ConfigFile, ConfigFileFlag, o.ConfigFile,
		"File of YAML with everything that flags would say, as etcd has it. Other flags and the environment do not count beside it.")
	fs.BoolVar(&o.Version, "version", o.Version, "Print the version and exit.")
	fs.BoolVarP(&o.Help, "help", "h", o.Help, "Print this and exit.")
}
