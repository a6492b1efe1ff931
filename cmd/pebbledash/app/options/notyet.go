package options

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// notYetFlags are the flags of etcd 3.7 that have no counterpart here yet. They
// are errors, and not silently accepted, because leaving out what one of them
// asks for could be unsafe.
const notYetFlags = `
auth-token auth-token-ttl backend-batch-interval backend-batch-limit
backend-bbolt-freelist-type bcrypt-cost bootstrap-defrag-threshold-megabytes
compact-hash-check-time compaction-batch-limit compaction-sleep-interval
config-file corrupt-check-time cors discovery discovery-cacert discovery-cert
discovery-dial-timeout discovery-endpoints discovery-fallback
discovery-insecure-skip-tls-verify discovery-insecure-transport
discovery-keepalive-time discovery-keepalive-timeout discovery-key
discovery-password discovery-proxy discovery-request-timeout discovery-srv
discovery-srv-name discovery-token discovery-user downgrade-check-time
enable-grpc-gateway enable-log-rotation feature-gates force-new-cluster
host-whitelist listen-client-http-urls log-rotation-config-json max-snapshots
max-wals memory-mlock raft-read-timeout raft-write-timeout socket-reuse-address
socket-reuse-port unsafe-no-fsync v2-deprecation wal-dir warning-apply-duration
warning-unary-request-duration
`

func notYet(flag string) bool {
	return slices.Contains(strings.Fields(notYetFlags), flag)
}

// FlagError makes the error of parsing the command line clearer where it is
// about a flag that etcd has and we do not.
func FlagError(err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && notYet(unknown.GetSpecifiedName()) {
		return fmt.Errorf("--%s of etcd is not yet supported", unknown.GetSpecifiedName())
	}
	return err
}
