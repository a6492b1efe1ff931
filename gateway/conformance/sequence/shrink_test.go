package sequence

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pebbledash/pebbledash/pkg/clock"
)

// shrink looks for a short part of steps that ends with the last of them and
// still makes a difference, and describes it. Each try is one of fresh servers.
func shrink(t *testing.T, reference, other kind, steps []step, patience time.Duration) string {
	t.Helper()
	clk := clock.Real{}
	began := clk.Now()
	tries := 0
	differs := func(steps []step) (d *difference) {
		tries++
		r, err := startRunner(t.Context(), []kind{reference, other}, t.TempDir())
		if err != nil {
			return nil
		}
		defer r.close()
		if d, err = r.run(t.Context(), steps); err != nil {
			return nil // Another failure.
		}
		return d
	}
	found := differs(steps)
	if found == nil {
		return "the same steps make no difference a second time: it is a matter of timing"
	}
	steps = steps[:found.step+1]
	for part := (len(steps) + 1) / 2; part >= 1 && clk.Since(began) < patience; part /= 2 {
		for from := 0; from+1 < len(steps) && clk.Since(began) < patience; {
			to := min(from+part, len(steps)-1)
			fewer := append(append([]step(nil), steps[:from]...), steps[to:]...)
			if d := differs(fewer); d != nil {
				found, steps = d, fewer[:d.step+1]
			} else {
				from = to
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "after %d tries, %d steps are left:\n", tries, len(steps))
	for i, s := range steps {
		fmt.Fprintf(&b, "%5d %v\n", i, s)
	}
	fmt.Fprintf(&b, "%s\netcd: %s\n%s: %s", found.text, found.want, found.system, found.got)
	return b.String()
}
