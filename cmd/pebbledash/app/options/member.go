package options

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"
)

const (
	defaultName = "default"
	// maxElectionMillis is etcd's bound: a longer one is surely a mistake.
	maxElectionMillis = 50_000
)

// MemberOptions are about this member itself.
type MemberOptions struct {
	Name           string
	DataDir        string
	HeartbeatMS    uint
	ElectionMS     uint
	ListenPeerURLs URLs
	PreVote        bool
	// ElectionTickAdvance is always done.
	ElectionTickAdvance bool
}

func newMemberOptions() *MemberOptions {
	return &MemberOptions{
		Name:           defaultName,
		HeartbeatMS:    100,
		ElectionMS:     1000,
		ListenPeerURLs: mustURLs("http://localhost:2380"),
		PreVote:        true,

		ElectionTickAdvance: true,
	}
}

// AddFlags adds the section's flags to fs.
func (o *MemberOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Name, "name", o.Name, "Name of this member, unique in its cluster.")
	fs.StringVar(&o.DataDir, "data-dir", o.DataDir, "Directory of this member's data. (default ${name}.etcd)")
	fs.UintVar(&o.HeartbeatMS, "heartbeat-interval", o.HeartbeatMS, "Milliseconds between two heartbeats of a leader.")
	fs.UintVar(&o.ElectionMS, "election-timeout", o.ElectionMS,
		"Milliseconds without a heartbeat after which a follower calls an election; at least five heartbeat intervals.")
	fs.Var(&o.ListenPeerURLs, "listen-peer-urls",
		"URLs to listen on for other members: http, https, unix or unixs.")
	fs.BoolVar(&o.PreVote, "pre-vote", o.PreVote,
		"Ask whether an election could be won before calling it. Always done; must not be false.")
	fs.BoolVar(&o.ElectionTickAdvance, "initial-election-tick-advance", o.ElectionTickAdvance,
		"Have a member that starts call an election early if it hears of no leader. Always done; false is of no effect.")
}

// Complete fills in what follows from other flags.
func (o *MemberOptions) Complete() {
	if o.DataDir == "" {
		o.DataDir = o.Name + ".etcd"
	}
}

// Validate returns everything that is wrong.
func (o *MemberOptions) Validate() []error {
	var errs []error
	if o.Name == "" {
		errs = append(errs, fmt.Errorf("--name must not be empty"))
	}
	if o.HeartbeatMS == 0 {
		errs = append(errs, fmt.Errorf("--heartbeat-interval must be >0 (set to %dms)", o.HeartbeatMS))
	}
	switch {
	case o.ElectionMS == 0:
		errs = append(errs, fmt.Errorf("--election-timeout must be >0 (set to %dms)", o.ElectionMS))
	case o.ElectionMS > maxElectionMillis:
		errs = append(errs, fmt.Errorf("--election-timeout[%dms] is too long, and should be set less than %dms",
			o.ElectionMS, maxElectionMillis))
	case o.HeartbeatMS > o.ElectionMS/5:
		errs = append(errs, fmt.Errorf("--election-timeout[%dms] should be at least as 5 times as --heartbeat-interval[%dms]",
			o.ElectionMS, o.HeartbeatMS))
	}
	if !o.PreVote {
		errs = append(errs, errors.New("--pre-vote=false is not supported: without it, a member that was cut off would disturb the others when it comes back"))
	}
	if len(o.ListenPeerURLs) == 0 {
		errs = append(errs, errors.New("--listen-peer-urls must not be empty"))
	}
	return append(errs, o.ListenPeerURLs.checkBind("listen-peer-urls")...)
}

func (o *MemberOptions) applyTo(c *CompletedConfig) {
	c.Name, c.DataDir = o.Name, o.DataDir
	c.ListenPeerURLs = o.ListenPeerURLs.list()
	c.HeartbeatInterval = time.Duration(o.HeartbeatMS) * time.Millisecond
	c.ElectionTimeout = time.Duration(o.ElectionMS) * time.Millisecond
}
