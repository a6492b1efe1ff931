package member

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
)

// dataFormat is the format of the data directory that this binary writes, and
// the newest that it reads. It is raised when an older binary must not touch the
// data any more.
const dataFormat = 1

// maxVersionBytes bounds what is read of a VERSION; ours has about 1000 bytes, and
// more with many routes.
const maxVersionBytes = 1 << 16

// versionFile is the content of VERSION.
type versionFile struct {
	format    int
	identity  Identity
	createdBy string
}

// versionJSON is how VERSION is written: a JSON object, indented, identifiers in
// hexadecimal as etcd shows them.
//
// Every format has to keep "format" and "created_by", which older binaries read
// before they refuse. It is part of the file format, and should not be changed.
type versionJSON struct {
	Format    int    `json:"format"`
	ClusterID string `json:"cluster_id"`
	MemberID  string `json:"member_id"`
	Name      string `json:"name"`
	CreatedBy string `json:"created_by"`
	// Routes is as the package route writes it.
	Routes string `json:"routes"`
	Joined bool   `json:"joined"`
	// Voters is empty if Joined.
	Voters []voterJSON `json:"voters"`
	// CRC32C is the checksum, in hexadecimal, of the object as it is written
	// with this field empty.
	CRC32C string `json:"crc32c"`
}

type voterJSON struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	PeerURLs []string `json:"peer_urls"`
}

// encode writes the object.
func (j versionJSON) encode() []byte {
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		panic(err) // strings, a number and a bool
	}
	return append(b, '\n')
}

func (j versionJSON) checksum() string {
	j.CRC32C = ""
	return fmt.Sprintf("%08x", crc32.Checksum(j.encode(), crc32.MakeTable(crc32.Castagnoli)))
}

func (v *versionFile) encode() []byte {
	j := versionJSON{
		Format:    v.format,
		ClusterID: FormatID(v.identity.ClusterID),
		MemberID:  FormatID(v.identity.MemberID),
		Name:      v.identity.Name,
		CreatedBy: v.createdBy,
		Routes:    v.identity.Routes,
		Joined:    v.identity.Joined,
		Voters:    []voterJSON{},
	}
	for _, m := range v.identity.Voters {
		j.Voters = append(j.Voters, voterJSON{FormatID(m.ID), m.Name, m.PeerURLs})
	}
	j.CRC32C = j.checksum()
	return j.encode()
}

var errNewerFormat = errors.New("written by a newer Pebbledash")

func decodeVersion(content []byte) (*versionFile, error) {
	if len(content) > maxVersionBytes {
		return nil, fmt.Errorf("it has more than %d bytes", maxVersionBytes)
	}
	var head struct {
		Format    int    `json:"format"`
		CreatedBy string `json:"created_by"`
	}
	if err := json.Unmarshal(content, &head); err != nil {
		return nil, err
	}
	if head.Format > dataFormat {
		return nil, fmt.Errorf("%w (format %d, this binary knows %d; the directory was made by version %q)",
			errNewerFormat, head.Format, dataFormat, head.CreatedBy)
	}
	if head.Format < 1 {
		return nil, fmt.Errorf("there is no format %d", head.Format)
	}

	var j versionJSON
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return nil, err
	}
	if want := j.checksum(); j.CRC32C != want {
		return nil, fmt.Errorf("its checksum is %s, it says %q", want, j.CRC32C)
	}
	id, err := j.identity()
	if err != nil {
		return nil, err
	}
	return &versionFile{format: j.Format, identity: id, createdBy: j.CreatedBy}, nil
}

func (j versionJSON) identity() (Identity, error) {
	id := Identity{Name: j.Name, Routes: j.Routes, Joined: j.Joined}
	var err error
	if id.ClusterID, err = parseID(j.ClusterID); err != nil {
		return Identity{}, err
	}
	if id.MemberID, err = parseID(j.MemberID); err != nil {
		return Identity{}, err
	}
	for _, v := range j.Voters {
		n, err := parseID(v.ID)
		if err != nil {
			return Identity{}, err
		}
		id.Voters = append(id.Voters, InitialMember{ID: n, Name: v.Name, PeerURLs: v.PeerURLs})
	}
	return id, id.check()
}

// parseID reads what [FormatID] writes.
func parseID(s string) (uint64, error) { return strconv.ParseUint(s, 16, 64) }
