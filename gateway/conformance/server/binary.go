package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// What the environment may say about the program under test.
const (
	// BinaryVariable holds the path of a pebbledash program.
	BinaryVariable = "PEBBLEDASH_BINARY"
	// TargetVariable is a Target; pebbledash if empty.
	TargetVariable = "PEBBLEDASH_CONFORMANCE_TARGET"
)

// Target is what a program is.
type Target string

// The targets there are.
const (
	Pebbledash Target = "pebbledash"
	Etcd       Target = "etcd"
)

const modulePath = "github.com/pebbledash/pebbledash"

// Binary is a program that can be run as a member.
type Binary struct {
	Path   string
	Target Target

	built string // a temporary directory with the program, or ""
}

// Close removes the program if it was built only for this Binary.
func (b *Binary) Close() error {
	if b.built == "" {
		return nil
	}
	return os.RemoveAll(b.built)
}

// Resolve finds the program that the environment asks for. With
// PEBBLEDASH_CONFORMANCE_TARGET=etcd that is the real etcd that the project is
// compared with, built and kept by benchmarks/peers/build.sh. Otherwise it is
// PEBBLEDASH_BINARY; or bin/pebbledash of this module, as it is, if it exists;
// or cmd/pebbledash, built now. The caller must Close it.
func Resolve(ctx context.Context) (*Binary, error) {
	switch target := Target(os.Getenv(TargetVariable)); target {
	case Etcd:
		return ResolvePeer(ctx, "etcd")
	case "", Pebbledash:
	default:
		return nil, fmt.Errorf("server: %s is %q, not %q or %q", TargetVariable, target, Pebbledash, Etcd)
	}
	if path := os.Getenv(BinaryVariable); path != "" {
		// A relative path would mean another file in each package's tests.
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("server: %s=%s is not an absolute path", BinaryVariable, path)
		}
		return &Binary{Path: path, Target: Pebbledash}, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(root, "bin", "pebbledash")
	if _, err := os.Stat(path); err == nil {
		return &Binary{Path: path, Target: Pebbledash}, nil
	}
	return build(ctx, root)
}

// ResolvePeer finds a program of etcd's that benchmarks/peers/build.sh can
// build: etcd, etcdctl or etcdutl.
func ResolvePeer(ctx context.Context, name string) (*Binary, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	script := filepath.Join(root, "benchmarks", "peers", "build.sh")
	out, err := output(exec.CommandContext(ctx, script, name))
	if err != nil {
		return nil, err
	}
	return &Binary{Path: strings.TrimSpace(string(out)), Target: Etcd}, nil
}

func build(ctx context.Context, root string) (*Binary, error) {
	dir, err := os.MkdirTemp("", "pebbledash-build-")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "pebbledash")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/pebbledash")
	cmd.Dir = root
	if _, err := output(cmd); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Binary{Path: path, Target: Pebbledash, built: dir}, nil
}

// output runs a command and returns its stdout; an error quotes its stderr.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("server: %s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.Bytes())
	}
	return out, nil
}

// moduleRoot is the folder of this module's go.mod, looked for from the
// working directory upwards.
func moduleRoot() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte("module "+modulePath+"\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("server: %s is not inside module %s", wd, modulePath)
		}
	}
}
