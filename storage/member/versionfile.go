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

// maxVersionBytes bounds what is read of a VERSION; ours has about 200 bytes.
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
	// CRC32C is the checksum, in hexadecimal, of the object as it is written
	// with this field empty.
	CRC32C string `json:"crc32c"`
}

// encode writes the object.
func (j versionJSON) encode() []byte {
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		panic(err) // strings and a number
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
	v := &versionFile{format: j.Format, identity: Identity{Name: j.Name}, createdBy: j.CreatedBy}
	var errs [2]error
	v.identity.ClusterID, errs[0] = strconv.ParseUint(j.ClusterID, 16, 64)
	v.identity.MemberID, errs[1] = strconv.ParseUint(j.MemberID, 16, 64)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if v.identity.Name == "" || v.identity.ClusterID == 0 || v.identity.MemberID == 0 {
		return nil, errors.New("it says no name, cluster ID or member ID")
	}
	return v, nil
}
