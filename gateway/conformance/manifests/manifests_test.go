package manifests

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../../../manifests"

// kind is a kind of file, with what is wrong with one of it.
type kind struct {
	// match is a pattern of names below manifests/.
	match string
	check func(t *testing.T, content string) error
	// mutations are what is broken in turn in each such file that has it: what, and by
	// what it is replaced.
	mutations []string
}

var kinds = []kind{
	{"kubeadm/*.yaml", checkObjects, []string{
		"livenessProbe:", "livenesProbe:", "--peer-key-file=", "--peer-keyfile=", "hostNetwork: true", "hostNetwork: maybe",
		"containerPort: 2381", "containerPort: 2382", "apiVersion: v1", "apiVersion: v9", "name: etcd-certs\n  h", "name: etcd-cert\n  h",
	}},
	{"statefulset/*.yaml", checkObjects, []string{
		"volumeClaimTemplates:", "volumeClaimTemplate:", "maxUnavailable:", "maxUnavailble:", "--initial-cluster-state=new", "--initial-cluster-state=old",
		"--quota-backend-bytes=8", "--quota-backend-bytes=x8", "$(POD_NAME)", "$(PODNAME)", "runAsNonRoot:", "runAsNotRoot:", "storage: 20Gi", "storage: 20Go",
		"path: /readyz, port: metrics", "path: /readyz, port: metric", "mountPath: /etc/pebbledash/peer", "mountPath: /etc/pebbledash/peers",
		"dnsNames:", "dnsName:", "renewBefore: 720h", "renewBefore: 720d", "secretName: pebbledash-peer\n", "secretName: pebbledash-peers\n",
		"pebbledash-2.pebbledash.pebbledash.svc", "pebbledash-2.pebbledash.svc", "{name: pebbledash-peer-ca,", "{name: pebbledash-peers-ca,",
		"topologyKey:", "topologyKeys:", "serviceName: pebbledash", "serviceName: pebble", "port: 2380, targetPort: peer", "port: 2380, targetPort: peers",
	}},
	{"kube-apiserver/overrides.pebbledash.flags", checkFlags, []string{"--group-listen-client-urls", "--group-listen-urls", "=events=", "=event=", "--client-cert-auth=true", "--client-cert-auth=yes"}},
	{"kube-apiserver/one-endpoint.flags", checkServerFlags, []string{"--etcd-cafile", "--etcd-ca-file", "--etcd-servers=", "--etcd-server="}},
	{"kube-apiserver/overrides.flags", checkServerFlags, []string{"--etcd-cafile", "--etcd-ca-file", "--etcd-servers-overrides=", "--etcd-server-overrides=", "coordination.k8s.io/leases#", "leases.coordination.k8s.io#", ";https://10.0.0.2:2479", "|https://10.0.0.2:2479"}},
	{"systemd/*.env", checkEnv, []string{"ETCD_PEER_KEY_FILE", "ETCD_PEER_KEYFILE", "ETCD_CLIENT_CERT_AUTH=true", "ETCD_CLIENT_CERT_AUTH=yes", "InitialCorruptCheck", "InitialCorruptChecks", "m3=https", "m4=https"}},
	{"systemd/*.service", checkUnit, []string{"ProtectHome=", "ProtectHomes=", "Type=notify", "Type=notified", "[Install]", "[Instal]", "SystemCallFilter=@system-service", "SystemCallFilter=@system-services", "MemoryDenyWriteExecute=yes", "MemoryDenyWriteExecute=maybe"}},
	{"systemd/*.sysusers", checkSysusers, []string{"u pebbledash", "v pebbledash"}},
	{"monitoring/prometheus.yaml", checkScrape, []string{"scrape_configs:", "scrape_config:", "source_labels:", "source_label:", "role: pod", "role: pods", "__meta_kubernetes_pod_name", "__meta_kubernetes_pods_name"}},
	{"monitoring/rules.yaml", checkRules, []string{
		"annotations:", "annotation:", "for: 3m", "for: 3 minutes", "sum by (job, instance)", "sum bye (job, instance)",
		"pebbledash_group_apply_lag_entries", "pebbledash_group_apply_lag_entry", "alarm_type=", "alarm_kind=", "priority_level, le)", "prioritylevel, le)",
		"pebbledash:quota_used:ratio >", "pebbledash:quota:ratio >", "{{ $labels.group }}", "{{ $label.group }}", "{{ $labels.side }}", "{{ $labels.sides }}",
	}},
	{"monitoring/dashboard.json", checkDashboard, []string{
		`"templating"`, `"template"`, "pebbledash_reign_is_sequencer", "pebbledash_reign_sequencer", "grpc_code!=", "grpc_codes!=", "$__rate_interval", "$__rateinterval",
		"sum by (resource)", "sum by (resources)", `job=\"$job\"`, `job=\"$jobs\"`, `"gridPos"`, `"gridPosition"`, "{{priority_level}}", "{{priority_levels}}", `"title": "Limiter"`, `"title": "Limits"`,
	}},
	{"Containerfile", checkContainerfile, []string{"FROM gcr", "FORM gcr", "golang:1.26", "golang:1.25", "--from=build /src", "--from=built /src", "USER 65532:65532", "USER 0:0", "debian12", "debian13", "ENTRYPOINT [", "ENTRYPOINTS [", "--data-dir=", "--datadir="}},
}

// unchecked are files that no such check is for.
var unchecked = map[string]string{
	".md": "for reading; the pages with commands are run by gateway/conformance/operations",
	".sh": "make cluster runs it",
}

// files returns the names, below manifests/, of the files of a kind.
func (k kind) files(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, k.match))
	require.NoError(t, err)
	require.NotEmpty(t, found, k.match)
	return found
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(content)
}

// TestManifests checks every file.
func TestManifests(t *testing.T) {
	checked := map[string]bool{}
	for _, k := range kinds {
		for _, file := range k.files(t) {
			checked[file] = true
			require.NoError(t, k.check(t, read(t, file)), file)
		}
	}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && unchecked[filepath.Ext(path)] == "" {
			require.True(t, checked[path], "nothing checks %s", path)
		}
		return err
	}))
}

// TestMutations breaks files, a word at a time.
func TestMutations(t *testing.T) {
	for _, k := range kinds {
		for i := 0; i < len(k.mutations); i += 2 {
			was, is := k.mutations[i], k.mutations[i+1]
			applied := 0
			for _, file := range k.files(t) {
				content := read(t, file)
				if !strings.Contains(content, was) {
					continue
				}
				applied++
				require.Error(t, k.check(t, strings.Replace(content, was, is, 1)), "%s with %q is taken", file, is)
			}
			require.Positive(t, applied, "no %s has %q", k.match, was)
		}
	}
}
