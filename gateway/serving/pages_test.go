package serving

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	cliflag "k8s.io/component-base/cli/flag"
)

type mux struct{ *http.ServeMux }

func (mux) Paths() []string { return []string{"/readyz"} }

func TestPages(t *testing.T) {
	var flags cliflag.NamedFlagSets
	fs := flags.FlagSet("one")
	fs.String("name", "m1", "")
	fs.String("password", "hush", "")
	fs.Lookup("password").Annotations = map[string][]string{"classified": {"true"}}
	m := mux{http.NewServeMux()}
	InstallPages(m, flags, "v1.2.3", "3.7.3")
	get := func(path string) string {
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		require.Equal(t, http.StatusOK, w.Code)
		return w.Body.String()
	}
	page := get("/flagz")
	// The delimiter is another one each time.
	require.Regexp(t, `\nname[:= ]+m1\n`, page)
	require.Regexp(t, `\npassword[:= ]+CLASSIFIED\n`, page)
	require.NotContains(t, page, "hush")
	page = get("/statusz")
	require.Regexp(t, `Binary version[:= ]+1\.2\.3\n`, page)
	require.Regexp(t, `Emulation version[:= ]+3\.7`, page)
	require.Regexp(t, `Paths[:= ]+/readyz /statusz\n`, page)
	// A version that is none, as without make, is shown as such.
	m = mux{http.NewServeMux()}
	InstallPages(m, flags, "unknown", "3.7.3")
	require.Regexp(t, `Binary version[:= ]+0\.0\n`, get("/statusz"))
}
