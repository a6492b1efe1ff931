// Command protogen makes the Go code of the services that etcd has in its server
// and not in its API module, gateway/lockpb and gateway/electionpb, and of our own,
// gateway/migrationpb and gateway/backuppb. It is a
// module of its own, whose go.mod says which versions of protoc's plugins are
// run, so that the product needs none of them:
//
//	cd gateway/protogen && go run .
//
// What the .proto files import is taken from the Go packages of the same content,
// so neither protoc nor a copy of other people's files is needed.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	_ "go.etcd.io/etcd/api/v3/etcdserverpb" // Its descriptors are imported.
	_ "google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// root is the module whose code is made.
const root = "../.."

var files = []string{
	"gateway/lockpb/lock.proto", "gateway/electionpb/election.proto", "gateway/migrationpb/migration.proto",
	"gateway/backuppb/backup.proto",
}

var plugins = [][2]string{
	{"protoc-gen-go", "paths=source_relative"},
	{"protoc-gen-go-grpc", "paths=source_relative"},
	{"protoc-gen-grpc-gateway", "paths=source_relative"},
}

func main() {
	log.SetFlags(0)
	if err := generate(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func generate(ctx context.Context) error {
	compiler := protocompile.Compiler{
		Resolver: protocompile.CompositeResolver{
			&protocompile.SourceResolver{ImportPaths: []string{root}},
			protocompile.ResolverFunc(linkedIn),
		},
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	compiled, err := compiler.Compile(ctx, files...)
	if err != nil {
		return err
	}
	request := &pluginpb.CodeGeneratorRequest{FileToGenerate: files}
	seen := map[string]bool{}
	// Plugins want each file behind those that it imports.
	var add func(protoreflect.FileDescriptor, *descriptorpb.FileDescriptorProto)
	add = func(d protoreflect.FileDescriptor, file *descriptorpb.FileDescriptorProto) {
		if seen[d.Path()] {
			return
		}
		seen[d.Path()] = true
		for i := range d.Imports().Len() {
			imported := d.Imports().Get(i).FileDescriptor
			add(imported, protodesc.ToFileDescriptorProto(imported))
		}
		request.ProtoFile = append(request.ProtoFile, file)
	}
	for _, f := range compiled {
		add(f, protoutil.ProtoFromFileDescriptor(f))
	}
	for _, p := range plugins {
		if err := run(ctx, p[0], p[1], request); err != nil {
			return fmt.Errorf("%s: %w", p[0], err)
		}
	}
	return nil
}

// linkedIn finds a file in this program. etcd's are registered by their last
// names, and import each other by whole ones.
func linkedIn(path string) (protocompile.SearchResult, error) {
	name := path
	if strings.HasPrefix(path, "etcd/") {
		name = filepath.Base(path)
	}
	d, err := protoregistry.GlobalFiles.FindFileByPath(name)
	if err != nil {
		return protocompile.SearchResult{}, err
	}
	file := protodesc.ToFileDescriptorProto(d)
	file.Name = proto.String(path)
	return protocompile.SearchResult{Proto: file}, nil
}

func run(ctx context.Context, plugin, parameter string, request *pluginpb.CodeGeneratorRequest) error {
	request.Parameter = proto.String(parameter)
	in, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "tool", plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &response); err != nil {
		return err
	}
	if response.Error != nil {
		return fmt.Errorf("%s", response.GetError())
	}
	for _, f := range response.File {
		if err := os.WriteFile(filepath.Join(root, f.GetName()), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
