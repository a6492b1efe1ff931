package manifests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// maxExposure is what systemd-analyze may say of the sandbox, of 100.
const maxExposure = "20"

// checkUnit has systemd look at the unit, if it is here, and at its sandbox. Without it
// only sections and keys are checked.
func checkUnit(t *testing.T, content string) error {
	t.Helper()
	if err := checkKeys(content); err != nil {
		return err
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("there is no systemd-analyze")
		return nil
	}
	// It looks for the program too.
	program := regexp.MustCompile(`(?m)^ExecStart=\S+`)
	if !strings.Contains(content, "\nExecStart=/usr/local/bin/pebbledash\n") {
		return fmt.Errorf("the unit does not start pebbledash")
	}
	file := filepath.Join(t.TempDir(), "pebbledash@m1.service")
	require.NoError(t, os.WriteFile(file, program.ReplaceAll([]byte(content), []byte("ExecStart=/bin/true")), 0o600))
	for _, args := range [][]string{{"verify", file}, {"security", "--offline=yes", "--threshold=" + maxExposure, file}} {
		out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
		if err != nil || args[0] == "verify" && len(out) > 0 {
			return fmt.Errorf("%s: %s", args[0], out)
		}
	}
	return nil
}

// known are the sections and keys that the unit has.
var known = map[string]string{
	"[Unit]": "Description Documentation Wants After",
	"[Service]": "Type ExecStart EnvironmentFile User Group StateDirectory StateDirectoryMode UMask TimeoutStartSec TimeoutStopSec " +
		"Restart RestartSec RestartPreventExitStatus LimitNOFILE OOMScoreAdjust NoNewPrivileges CapabilityBoundingSet AmbientCapabilities " +
		"ProtectSystem ProtectHome ProtectProc ProtectClock ProtectHostname ProtectControlGroups ProtectKernelLogs ProtectKernelModules " +
		"ProtectKernelTunables PrivateTmp PrivateDevices PrivateUsers DevicePolicy RestrictAddressFamilies RestrictNamespaces " +
		"RestrictRealtime RestrictSUIDSGID LockPersonality MemoryDenyWriteExecute RemoveIPC KeyringMode SystemCallArchitectures " +
		"SystemCallFilter SystemCallErrorNumber",
	"[Install]": "WantedBy",
}

func checkKeys(content string) error {
	keys := ""
	for _, line := range lines(content) {
		if strings.HasPrefix(line, "[") {
			if keys = known[line]; keys == "" {
				return fmt.Errorf("there is no section %s", line)
			}
			continue
		}
		key, _, _ := strings.Cut(line, "=")
		if !strings.Contains(" "+keys+" ", " "+key+" ") {
			return fmt.Errorf("there is no key %s", key)
		}
	}
	return nil
}

func checkSysusers(_ *testing.T, content string) error {
	for _, line := range lines(content) {
		if !regexp.MustCompile(`^u [a-z]+ - "[^"]+" /[a-z/]+$`).MatchString(line) {
			return fmt.Errorf("%q is no user", line)
		}
	}
	return nil
}
