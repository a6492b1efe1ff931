package app

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pebbledash/pebbledash/storage/inspect"
	"github.com/pebbledash/pebbledash/storage/member"
)

func newGroups() *cobra.Command {
	return newLook("groups", "Tells whose a stopped member's data directory is, and how far its groups are",
		[]string{"DATA_DIR"}, []string{formatTable, formatJSON},
		func(_ *cobra.Command, dir *inspect.Dir, out io.Writer, format string, _ []string) error {
			r, err := newGroupsReport(dir)
			if err != nil {
				return err
			}
			if format == formatJSON {
				enc := json.NewEncoder(out)
				enc.SetIndent("", "  ")
				return enc.Encode(r)
			}
			return r.table(out)
		})
}

// groupsReport is what "groups" says. Its JSON is for programs, and should only be
// added to.
type groupsReport struct {
	ClusterID string         `json:"cluster_id"`
	MemberID  string         `json:"member_id"`
	Name      string         `json:"name"`
	CreatedBy string         `json:"created_by"`
	Routes    string         `json:"routes"`
	Members   []memberReport `json:"members"`
	Removed   []string       `json:"removed"`
	Groups    []groupReport  `json:"groups"`
}

type memberReport struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peer_urls"`
	ClientURLs []string `json:"client_urls"`
}

type groupReport struct {
	ID           uint16         `json:"id"`
	Name         string         `json:"name"`
	AppliedIndex uint64         `json:"applied_index"`
	AppliedTerm  uint64         `json:"applied_term"`
	Epoch        uint64         `json:"epoch"`
	FirstIndex   uint64         `json:"first_index"`
	LastIndex    uint64         `json:"last_index"`
	Term         uint64         `json:"term"`
	Commit       uint64         `json:"commit"`
	Revision     int64          `json:"revision"`
	Compacted    int64          `json:"compacted"`
	Bytes        int64          `json:"bytes"`
	DiskBytes    uint64         `json:"disk_bytes"`
	Voters       []string       `json:"voters"`
	Learners     []string       `json:"learners"`
	Records      []recordReport `json:"records"`
}

type recordReport struct {
	Table   string `json:"table"`
	Version int64  `json:"version"`
	Records int64  `json:"records"`
}

func newGroupsReport(dir *inspect.Dir) (*groupsReport, error) {
	id := dir.Identity()
	r := &groupsReport{
		ClusterID: member.FormatID(id.ClusterID), MemberID: member.FormatID(id.MemberID),
		Name: id.Name, CreatedBy: dir.CreatedBy(), Routes: id.Routes,
		Members: []memberReport{},
	}
	members, removed, err := dir.Members()
	if err != nil {
		return nil, err
	}
	r.Removed = formatIDs(removed)
	for _, m := range members {
		r.Members = append(r.Members, memberReport{member.FormatID(m.ID), m.Name, m.PeerURLs, m.ClientURLs})
	}
	groups, err := dir.Groups()
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		row := groupReport{
			ID: uint16(g.ID), Name: g.Name, AppliedIndex: g.Applied.Index, AppliedTerm: g.Applied.Term,
			Epoch: g.Applied.Epoch, FirstIndex: g.First, LastIndex: g.Last, Term: g.Term, Commit: g.Commit,
			Revision: g.Revision, Compacted: g.Compacted, Bytes: g.Bytes, DiskBytes: g.Disk,
			Voters: formatIDs(g.Replicas.Voters), Learners: formatIDs(g.Replicas.Learners), Records: []recordReport{},
		}
		for _, t := range g.Records {
			row.Records = append(row.Records, recordReport{t.Name, t.Version, t.Records})
		}
		r.Groups = append(r.Groups, row)
	}
	return r, nil
}

func formatIDs(ids []uint64) []string {
	out := []string{}
	for _, id := range ids {
		out = append(out, member.FormatID(id))
	}
	return out
}

func (r *groupsReport) table(out io.Writer) error {
	w := newTabs(out)
	w.row("cluster", r.ClusterID)
	w.row("member", r.MemberID)
	w.row("name", r.Name)
	w.row("made by version", r.CreatedBy)
	for i, line := range strings.Split(strings.TrimSpace(r.Routes), "\n") {
		w.row([]string{"routes", ""}[min(i, 1)], line)
	}
	for _, m := range r.Members {
		w.row("member "+m.ID, m.Name, strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ","))
	}
	for _, id := range r.Removed {
		w.row("member "+id, "removed")
	}
	w.section()
	w.row("GROUP", "APPLIED", "TERM", "EPOCH", "LOG", "REVISION", "COMPACTED", "BYTES", "ON DISK", "VOTERS", "LEARNERS")
	for _, g := range r.Groups {
		w.row(g.Name, g.AppliedIndex, g.AppliedTerm, g.Epoch, fmt.Sprintf("%d-%d", g.FirstIndex, g.LastIndex), g.Revision,
			g.Compacted, humanBytes(g.Bytes), humanBytes(int64(g.DiskBytes)), orNone(g.Voters), orNone(g.Learners))
	}
	first := true
	for _, g := range r.Groups {
		for _, t := range g.Records {
			if first {
				w.section()
				w.row("GROUP", "RECORDS OF", "VERSION", "ROWS")
				first = false
			}
			w.row(g.Name, t.Table, t.Version, t.Records)
		}
	}
	return w.flush()
}

func orNone(ids []string) string {
	if len(ids) == 0 {
		return "-"
	}
	return strings.Join(ids, ",")
}
