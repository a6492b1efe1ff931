package serving

import (
	"net/http"
	"slices"

	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/server/flagz"
	"k8s.io/apiserver/pkg/server/statusz"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/compatibility"
)

// component is what the pages call the program.
const component = "pebbledash"

// Mux is what pages are put on.
type Mux interface {
	Handle(path string, handler http.Handler)
	// Paths are those that are there.
	Paths() []string
}

// InstallPages puts /flagz, which shows the flags but for those that are marked as
// classified, and /statusz on mux. It comes last: /statusz names the paths.
// binary is this program's version, emulated that of the etcd that it behaves like.
func InstallPages(mux Mux, flags cliflag.NamedFlagSets, binary, emulated string) {
	flagz.Install(mux, component, flagz.NamedFlagSetsReader{FlagSets: flags})
	v, err := version.ParseSemantic(binary)
	if err != nil {
		v = version.MajorMinor(0, 0) // built without make
	}
	effective := compatibility.NewEffectiveVersionFromString(v.String(), "", "")
	if v, err := version.ParseSemantic(emulated); err == nil {
		effective.SetEmulationVersion(v)
	}
	paths := append(mux.Paths(), statusz.DefaultStatuszPath)
	slices.Sort(paths)
	statusz.Install(mux, component, statusz.NewRegistry(effective, statusz.WithListedPaths(paths)))
}
