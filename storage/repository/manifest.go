package repository

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pebbledash/pebbledash/storage/route"
)

// manifestFormat is the format of manifests, and of what they describe. A newer binary
// reads older ones.
const manifestFormat = 1

// Manifest says what a backup is of, and of which files. Its JSON is part of the file
// format: fields are only added.
type Manifest struct {
	// Format is 1.
	Format int `json:"format"`
	// ID is the backup's name in the repository, by which backups sort by age.
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	// ClusterID, MemberID and Member say whose state it was, Version which binary's.
	ClusterID string `json:"cluster_id"`
	MemberID  string `json:"member_id"`
	Member    string `json:"member"`
	Version   string `json:"version"`
	// Revision is that of the backup: what is newer in the files does not count. Compacted
	// is the compacted revision, 0 if there never was a compaction.
	Revision  int64 `json:"revision"`
	Compacted int64 `json:"compacted"`
	// Routes is the cluster's route.Table.
	Routes string `json:"routes"`
	// Alarms are those that were raised, for people: the files have them, too.
	Alarms []string `json:"alarms,omitempty"`
	// BasedOn is the backup before in the repository, "" if there was none; NewBytes is
	// what this one has added.
	BasedOn  string `json:"based_on,omitempty"`
	NewBytes int64  `json:"new_bytes"`
	// Files are the database's, by name.
	Files []File `json:"files"`
}

// File is one file of a backup.
type File struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	SHA  Sum    `json:"sha256"`
}

// Sum is the SHA-256 of a file's content.
type Sum [sha256.Size]byte

// String is in hexadecimal.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// MarshalText implements encoding.TextMarshaler.
func (s Sum) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Sum) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(s)) {
		return fmt.Errorf("a checksum of %d digits", len(text))
	}
	_, err := hex.Decode(s[:], text)
	return err
}

// Bytes is how much the backup's files are together.
func (m *Manifest) Bytes() (n int64) {
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// check returns an error if no backup can be like that.
func (m *Manifest) check() error {
	switch {
	case m.Format > manifestFormat:
		return fmt.Errorf("it has format %d, and this binary knows %d: use a newer pebbledash", m.Format, manifestFormat)
	case m.Format != manifestFormat:
		return fmt.Errorf("it has format %d", m.Format)
	case m.Revision < 1 || m.Compacted < 0 || m.Compacted > m.Revision:
		return fmt.Errorf("revision %d, compacted at %d", m.Revision, m.Compacted)
	case len(m.Files) == 0:
		return errors.New("it has no files")
	}
	if _, err := route.Decode(m.Routes); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, f := range m.Files {
		if err := f.check(); err != nil {
			return err
		}
		if seen[f.Name] {
			return fmt.Errorf("file %q is there twice", f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

// check refuses what could lead out of a directory.
func (f File) check() error {
	if f.Name == "" || f.Name == "." || f.Name == ".." || strings.ContainsAny(f.Name, "/\\\x00") || f.Size < 0 {
		return fmt.Errorf("bad file %q of %d bytes", f.Name, f.Size)
	}
	return nil
}

// A manifest is JSON in lines, and behind it a line with its own checksum:
//
//	{...}
//	sha256:0123...
const sumPrefix = "sha256:"

func (m *Manifest) encode() ([]byte, error) {
	body, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return nil, err
	}
	body = append(body, '\n')
	return fmt.Appendf(body, "%s%v\n", sumPrefix, Sum(sha256.Sum256(body))), nil
}

func decodeManifest(content []byte) (*Manifest, error) {
	body, last := content, []byte(nil)
	if n := len(content); n > 0 && content[n-1] == '\n' {
		at := bytes.LastIndexByte(content[:n-1], '\n') + 1
		body, last = content[:at], content[at:n-1]
	}
	text, ok := strings.CutPrefix(string(last), sumPrefix)
	var sum Sum
	if !ok || sum.UnmarshalText([]byte(text)) != nil {
		return nil, errors.New("it is cut short: its last line is no checksum")
	}
	if sum != sha256.Sum256(body) {
		return nil, errors.New("its content does not have the checksum that its last line says")
	}
	m := new(Manifest)
	if err := json.Unmarshal(body, m); err != nil {
		return nil, err
	}
	return m, m.check()
}
