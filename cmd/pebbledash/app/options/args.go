package options

import (
	"strings"

	"github.com/spf13/pflag"
)

// DoubleDash writes long flags that came with one dash, `-name=a`, with two.
// etcd takes both, and pflag would read a row of one-letter flags.
func DoubleDash(fs *pflag.FlagSet, args []string) []string {
	out := make([]string, 0, len(args))
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(out, args[i:]...)
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		flag := fs.Lookup(name)
		if flag != nil && strings.HasPrefix(arg, "-") && !strings.HasPrefix(arg, "--") {
			arg = "-" + arg
		}
		out = append(out, arg)
		// What follows is the flag's value, however it looks.
		if flag != nil && strings.HasPrefix(arg, "--") && !hasValue && flag.NoOptDefVal == "" && i+1 < len(args) {
			i++
			out = append(out, args[i])
		}
	}
	return out
}
