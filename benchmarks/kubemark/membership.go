//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// changePatience bounds how long a change of the membership may be refused: while a
// learner catches up, and while a member that was only just met counts as unhealthy.
const changePatience = 2 * time.Minute

// tool runs etcdctl, or what restores snapshots, and returns its standard output.
func tool(ctx context.Context, binary string, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, binary, args...).Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		return nil, fmt.Errorf("%s %s: %s", binary, strings.Join(args, " "), failed.Stderr)
	}
	return out, err
}

func (s *store) etcdctl(ctx context.Context, endpoints []string, args ...string) ([]byte, error) {
	return tool(ctx, s.binaries["etcdctl"], append([]string{"--endpoints=" + strings.Join(endpoints, ",")}, args...)...)
}

// patiently has etcdctl do what may be refused at first.
func (s *store) patiently(ctx context.Context, endpoints []string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, changePatience)
	defer cancel()
	for {
		_, err := s.etcdctl(ctx, endpoints, args...)
		if err == nil || !pause(ctx, 100*time.Millisecond) {
			return err
		}
	}
}

// memberID finds a member by its name; a learner that has not started has none.
func (s *store) memberID(ctx context.Context, endpoints []string, matches func(name string, learner bool) bool) (string, error) {
	out, err := s.etcdctl(ctx, endpoints, "member", "list", "--write-out=json")
	if err != nil {
		return "", err
	}
	var list struct {
		Members []struct {
			ID        uint64
			Name      string
			IsLearner bool
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return "", err
	}
	for _, m := range list.Members {
		if matches(m.Name, m.IsLearner) {
			return strconv.FormatUint(m.ID, 16), nil
		}
	}
	return "", fmt.Errorf("no such member: %s", out)
}

func (s *store) removeMember(ctx context.Context, endpoints []string, name string) error {
	id, err := s.memberID(ctx, endpoints, func(n string, _ bool) bool { return n == name })
	if err != nil {
		return err
	}
	_, err = s.etcdctl(ctx, endpoints, "member", "remove", id)
	return err
}

func (s *store) addLearner(ctx context.Context, endpoints []string, i int) error {
	return s.patiently(ctx, endpoints, "member", "add", memberName(i), "--learner", "--peer-urls="+memberURL(peerPort, i))
}

// promote gives the only learner its vote.
func (s *store) promote(ctx context.Context, endpoints []string, name string) error {
	id, err := s.memberID(ctx, endpoints, func(_ string, learner bool) bool { return learner })
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return s.patiently(ctx, endpoints, "member", "promote", id)
}

func (s *store) saveSnapshot(ctx context.Context, file string) error {
	_, err := s.etcdctl(ctx, s.urls[:1], "snapshot", "save", file)
	return err
}

// restoreSnapshot puts every member, all of which have ended, back to a snapshot.
func (s *store) restoreSnapshot(ctx context.Context, file string) error {
	for i, m := range s.members {
		if err := os.RemoveAll(m.data); err != nil {
			return err
		}
		if err := os.Mkdir(m.data, 0o700); err != nil {
			return err
		}
		binary := s.binaries["etcdutl"]
		if s.name == "pebbledash" {
			binary = m.binary
		}
		if _, err := tool(ctx, binary, "snapshot", "restore", file,
			"--name="+memberName(i), "--data-dir="+dataDir(m.data), "--initial-cluster="+initialCluster(len(s.members)),
			"--initial-advertise-peer-urls="+memberURL(peerPort, i),
			"--bump-revision=1000000000", "--mark-compacted"); err != nil {
			return err
		}
	}
	return nil
}
