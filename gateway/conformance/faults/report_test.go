package faults

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// row is what there is to say of one program under one fault.
type row struct {
	fault, program string
	since          string
	members        int
	failed         bool // not for violations only
	duration       time.Duration
	faults         int
	ops            int
	unknown        int
	revisions      int
	gaps           int
	events         int
	watches        int
	violations     int
	next           []time.Duration // from each fault to the next write
	pause          time.Duration   // the longest between two writes
}

// report prints the table.
func report(w io.Writer, rows []row) {
	if len(rows) == 0 {
		return
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "fault\tprogram\tmembers\tfaults\tduration\trequests\tunknown\trevisions\tgaps\tevents\tviolations\tnext write, median\tworst\tsince\tlongest pause")
	for _, r := range rows {
		median, worst, since := "", "", ""
		if len(r.next) > 0 {
			sorted := slices.Sorted(slices.Values(r.next))
			median, worst, since = milliseconds(sorted[len(sorted)/2]), milliseconds(sorted[len(sorted)-1]), r.since
		}
		violations := fmt.Sprint(r.violations)
		if r.failed {
			violations += " FAILED"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%v\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n",
			r.fault, r.program, r.members, r.faults, r.duration.Round(time.Second/10), r.ops, r.unknown, r.revisions, r.gaps, r.events, violations, median, worst, since, milliseconds(r.pause))
	}
	_ = table.Flush() // To the test's own output.
}

// longestPause is how long no write was answered.
func longestPause(ops []*op) time.Duration {
	var rets []time.Duration
	for _, o := range ops {
		if o.changes() {
			rets = append(rets, o.ret)
		}
	}
	slices.Sort(rets)
	var longest time.Duration
	for i := 1; i < len(rets); i++ {
		longest = max(longest, rets[i]-rets[i-1])
	}
	return longest
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
