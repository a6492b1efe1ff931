package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// expand replaces $m1, $m1.peer, $m1.client, $leader and their like.
func (s *session) expand(line string) string {
	return variable.ReplaceAllStringFunc(line, func(v string) string {
		parts := variable.FindStringSubmatch(v)
		m := s.named(parts[1])
		switch parts[2] {
		case ".peer":
			return m.peer
		case ".client":
			return m.client
		}
		if m.id == 0 {
			s.learnIDs()
		}
		return fmt.Sprintf("%x", m.id)
	})
}

var variable = regexp.MustCompile(`\$(m\d|leader|follower)(\.peer|\.client)?\b`)

// etcdctl runs one command line. If it is one for the leader, or a follower, its
// output calls them so.
func (s *session) etcdctl(line, at, retry string) string {
	s.t.Helper()
	members := s.running()
	if at != "" {
		members = nil
		for _, name := range strings.Split(at, ",") {
			members = append(members, s.named(name))
		}
	}
	var endpoints []string
	for _, m := range members {
		endpoints = append(endpoints, m.client)
	}
	args := append([]string{"--endpoints=" + strings.Join(endpoints, ",")}, strings.Fields(s.expand(line))...)
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for {
		cmd := exec.CommandContext(s.t.Context(), s.ctl, args...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			out = append(out, []byte(err.Error()+"\n")...)
		}
		if retry == "" || !strings.Contains(string(out), retry) {
			masked := s.mask(string(out))
			if at == "leader" || at == "follower" {
				for role, m := range map[string]*member{"leader": s.leading, "follower": s.following} {
					masked = strings.NewReplacer("<"+m.name+">", "<"+role+">", "<"+m.name+" ", "<"+role+" ").Replace(masked)
				}
			}
			return masked
		}
		select {
		case <-s.clk.After(5 * pause):
		case <-ctx.Done():
			s.t.Fatalf("etcdctl %s goes on to print %s", line, out)
		}
	}
}

// masks are tried in order.
var masks = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?m)^\{"level":"warn".*\n`), ""}, // the client's own log
	{regexp.MustCompile(`took = [^ \n]*`), "took = <time>"},
	{regexp.MustCompile(`memberID:\d+`), "memberID:<number>"},
	{regexp.MustCompile(" {1,5}" + anID.String()), " <id>"},
}

var anID = regexp.MustCompile(`\b[0-9a-f]{11,16}\b`)

// mask replaces what differs from run to run, and puts in order what comes in
// the order of ids.
func (s *session) mask(out string) string {
	known := func(id string) bool {
		return slices.ContainsFunc(s.members, func(m *member) bool { return fmt.Sprintf("%x", m.id) == id })
	}
	for _, id := range anID.FindAllString(out, -1) {
		if !known(id) && len(s.running()) > 0 {
			s.learnIDs()
			break
		}
	}
	for _, m := range s.members {
		out = strings.NewReplacer(m.client, "<"+m.name+" client>", m.peer, "<"+m.name+" peer>", m.spare, "<"+m.name+" spare>").Replace(out)
		if m.id != 0 {
			// Some are printed 16 wide.
			out = strings.NewReplacer(fmt.Sprintf(" %16x", m.id), " <"+m.name+">", fmt.Sprintf("%x", m.id), "<"+m.name+">").Replace(out)
		}
	}
	for _, m := range masks {
		out = m.what.ReplaceAllString(out, m.with)
	}
	lines := strings.SplitAfter(out, "\n")
	for i, line := range lines {
		if v, ok := strings.CutPrefix(line, "ETCD_INITIAL_CLUSTER=\""); ok {
			members := strings.Split(strings.TrimSuffix(v, "\"\n"), ",")
			slices.Sort(members)
			lines[i] = "ETCD_INITIAL_CLUSTER=\"" + strings.Join(members, ",") + "\"\n"
		}
	}
	if len(lines) > 1 && strings.HasPrefix(lines[0], "<m") {
		slices.Sort(lines)
	}
	return strings.Join(lines, "")
}
