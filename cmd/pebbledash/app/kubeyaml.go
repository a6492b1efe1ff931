package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/mvccpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// protobufMagic is what Kubernetes puts before an object that it stores as protobuf: a
// runtime.Unknown follows.
var protobufMagic = []byte("k8s\x00")

// writeYAML writes a key as one document: what is known of it as comments, and the
// value, which is an object if Kubernetes has written it.
func writeYAML(out io.Writer, kv *mvccpb.KeyValue, keysOnly bool) error {
	about := fmt.Sprintf("revision %d, created at %d, version %d", kv.ModRevision, kv.CreateRevision, kv.Version)
	if kv.Version == 0 {
		about = fmt.Sprintf("revision %d, deleted", kv.ModRevision)
	} else if kv.Lease != 0 {
		about += ", lease " + formatLease(kv.Lease)
	}
	if _, err := fmt.Fprintf(out, "---\n# %s\n# %s\n", printable(kv.Key), about); err != nil {
		return err
	}
	if keysOnly || kv.Version == 0 {
		return nil
	}
	_, err := out.Write(valueYAML(kv.Value))
	return err
}

// valueYAML returns a value as YAML. What is no object is the field value, or in
// base64 the field binary.
func valueYAML(value []byte) []byte {
	if unknown, ok := bytes.CutPrefix(value, protobufMagic); ok {
		if doc := protobufYAML(value, unknown); doc != nil {
			return doc
		}
	} else if json.Valid(value) && bytes.HasPrefix(bytes.TrimLeft(value, " \t\r\n"), []byte("{")) {
		if doc, err := yaml.JSONToYAML(value); err == nil {
			return doc
		}
	}
	plain := map[string]any{"binary": value}
	if utf8.Valid(value) {
		plain = map[string]any{"value": string(value)}
	}
	doc, err := yaml.Marshal(plain)
	if err != nil {
		return []byte("# it can't be written as YAML: " + err.Error() + "\n")
	}
	return doc
}

// protobufYAML returns an object that is stored as protobuf, or of one that this
// binary does not know what all objects have; nil if it is none.
func protobufYAML(value, unknown []byte) []byte {
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(value, nil, nil)
	if err == nil {
		if doc, err := yaml.Marshal(obj); err == nil {
			return doc
		}
	}
	var u runtime.Unknown
	if err := u.Unmarshal(unknown); err != nil || u.Kind == "" {
		return nil
	}
	// The first field of every object is its metadata.
	part := metav1.PartialObjectMetadata{}
	note := "# the rest of the object is of a kind that this binary does not know\n"
	if err := part.Unmarshal(u.Raw); err != nil {
		note = "# the object can't be decoded\n"
	}
	part.APIVersion, part.Kind = u.APIVersion, u.Kind
	doc, err := yaml.Marshal(part)
	if err != nil {
		return nil
	}
	return append(doc, note...)
}
