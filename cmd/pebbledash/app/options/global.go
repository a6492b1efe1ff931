package options

import "github.com/spf13/pflag"

// GlobalOptions are about the command itself. They have no ETCD_ variables.
type GlobalOptions struct {
	Version bool
	Help    bool
}

// AddFlags adds the section's flags to fs.
func (o *GlobalOptions) AddFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&o.Version, "version", o.Version, "Print the version and exit.")
	fs.BoolVarP(&o.Help, "help", "h", o.Help, "Print this and exit.")
}
