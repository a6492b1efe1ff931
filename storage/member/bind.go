package member

import "fmt"

// identity is who this member is.
type identity struct {
	cluster, member uint64
	// voters are the members that the cluster begins with. It matters only
	// until the log is bootstrapped.
	voters []uint64
}

// bind opens the data directory and finds out who this member is: who the
// directory says it is or, if it is new, who the flags say. As in etcd the flags
// of the first start mean nothing for a later one.
func bind(cfg Config) (*DataDir, identity, error) {
	dir, err := OpenDataDir(DataDirConfig{Dir: cfg.Dir, FS: cfg.FS, Logger: cfg.Logger})
	if err != nil {
		return nil, identity{}, err
	}
	id, err := bindDir(dir, cfg)
	return dir, id, err
}

func bindDir(dir *DataDir, cfg Config) (identity, error) {
	known, isOld := dir.Identity()
	initial, err := ParseInitialCluster(cfg.InitialCluster, cfg.ClusterToken)
	if err == nil && isOld && initial.ID != known.ClusterID {
		cfg.Logger.Warn("the data directory belongs to another cluster than the one --initial-cluster describes; the flag has no effect",
			"data_dir", cfg.Dir, "cluster", FormatID(known.ClusterID))
	}
	if isOld && (err != nil || initial.ID != known.ClusterID) {
		return identity{known.ClusterID, known.MemberID, []uint64{known.MemberID}}, nil
	}
	if err != nil {
		return identity{}, err
	}
	if !isOld {
		self, err := initial.Member(cfg.Name)
		if err != nil {
			return identity{}, err
		}
		known = Identity{Name: cfg.Name, ClusterID: initial.ID, MemberID: self.ID}
		if _, _, err := dir.Bind(known, cfg.Version); err != nil {
			return identity{}, fmt.Errorf("member: %w", err)
		}
	}
	id := identity{cluster: known.ClusterID, member: known.MemberID}
	for _, m := range initial.Members {
		id.voters = append(id.voters, m.ID)
	}
	return id, nil
}
