package manifests

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// objects are what a file declares.
type objects struct {
	pods         []podOf
	services     []*corev1.Service
	issuers      map[string]*certmanager.Issuer
	certificates []*certmanager.Certificate
}

// podOf is a pod, with the volumes that its StatefulSet claims.
type podOf struct {
	spec    *corev1.PodSpec
	labels  map[string]string
	claims  []corev1.PersistentVolumeClaim
	service string
}

// decode reads a file's documents into the types that their kinds name; what these have
// no field for is an error.
func decode(content string) (*objects, error) {
	all := &objects{issuers: map[string]*certmanager.Issuer{}}
	for i, document := range regexp.MustCompile(`(?m)^---$`).Split(content, -1) {
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		var err error
		into := func(object any) { err = yaml.UnmarshalStrict([]byte(document), object) }
		switch head.APIVersion + " " + head.Kind {
		case "v1 Namespace":
			into(new(corev1.Namespace))
		case "v1 Service":
			s := new(corev1.Service)
			into(s)
			all.services = append(all.services, s)
		case "v1 Pod":
			p := new(corev1.Pod)
			into(p)
			all.pods = append(all.pods, podOf{spec: &p.Spec, labels: p.Labels})
		case "apps/v1 StatefulSet":
			s := new(appsv1.StatefulSet)
			into(s)
			all.pods = append(all.pods, podOf{&s.Spec.Template.Spec, s.Spec.Template.Labels, s.Spec.VolumeClaimTemplates, s.Spec.ServiceName})
		case "policy/v1 PodDisruptionBudget":
			into(new(policyv1.PodDisruptionBudget))
		case "cert-manager.io/v1 Issuer":
			issuer := new(certmanager.Issuer)
			into(issuer)
			all.issuers[issuer.Name] = issuer
		case "cert-manager.io/v1 Certificate":
			c := new(certmanager.Certificate)
			into(c)
			all.certificates = append(all.certificates, c)
		default:
			err = fmt.Errorf("there is no %s %s", head.APIVersion, head.Kind)
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
	}
	return all, nil
}

func checkObjects(t *testing.T, content string) error {
	t.Helper()
	all, err := decode(content)
	if err != nil {
		return err
	}
	var errs []error
	for _, pod := range all.pods {
		errs = append(errs, checkPod(t, pod), checkServices(pod, all.services))
	}
	return errors.Join(append(errs, checkCertificates(all))...)
}

var variable = regexp.MustCompile(`\$\(([A-Z_]+)\)`)

// checkPod checks what a pod's parts say of one another, and its flags.
func checkPod(t *testing.T, pod podOf) error {
	t.Helper()
	c := pod.spec.Containers[0]
	ports := portNames(c)
	for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if probe == nil || probe.HTTPGet == nil {
			return errors.New("a probe is missing")
		}
		if ports[probe.HTTPGet.Port.StrVal] == 0 {
			return fmt.Errorf("a probe asks port %v, which is none", probe.HTTPGet.Port)
		}
		if !slices.Contains([]string{"/livez", "/readyz"}, probe.HTTPGet.Path) {
			return fmt.Errorf("nobody answers at %s", probe.HTTPGet.Path)
		}
	}

	volumes := map[string]bool{}
	for _, v := range pod.spec.Volumes {
		volumes[v.Name] = true
	}
	for _, claim := range pod.claims {
		volumes[claim.Name] = true
	}
	for _, m := range c.VolumeMounts {
		if !volumes[m.Name] {
			return fmt.Errorf("there is no volume %s", m.Name)
		}
	}

	env := map[string]string{}
	for _, e := range c.Env {
		env[e.Name] = map[string]string{"metadata.name": "pebbledash-0", "metadata.namespace": "pebbledash"}[e.ValueFrom.FieldRef.FieldPath]
	}
	if len(c.Command) == 0 || c.Command[0] != "pebbledash" {
		return errors.New("the command is not pebbledash")
	}
	var args []string
	for _, arg := range append(c.Command[1:], c.Args...) {
		arg = variable.ReplaceAllStringFunc(arg, func(v string) string {
			return env[variable.FindStringSubmatch(v)[1]]
		})
		args = append(args, arg)
		if path, file := strings.CutPrefix(flagValue(arg), "/"); file && !mounted(c, "/"+path) {
			return fmt.Errorf("%s is in no volume", arg)
		}
		if strings.HasPrefix(arg, "--listen-metrics-urls=") {
			if _, port, _ := strings.Cut(arg, "//"); !strings.HasSuffix(port, fmt.Sprintf(":%d", ports[c.ReadinessProbe.HTTPGet.Port.StrVal])) {
				return fmt.Errorf("the probes do not ask where %s is", arg)
			}
		}
	}
	return parseFlags(args)
}

func flagValue(arg string) string {
	_, value, _ := strings.Cut(arg, "=")
	return value
}

func mounted(c corev1.Container, path string) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
		return path == m.MountPath || strings.HasPrefix(path, m.MountPath+"/")
	})
}

func portNames(c corev1.Container) map[string]int32 {
	ports := map[string]int32{}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	return ports
}

// checkServices looks whether services find the pod, and the StatefulSet its service.
func checkServices(pod podOf, services []*corev1.Service) error {
	ports, found := portNames(pod.spec.Containers[0]), pod.service == ""
	for _, s := range services {
		found = found || s.Name == pod.service
		for key, value := range s.Spec.Selector {
			if pod.labels[key] != value {
				return fmt.Errorf("service %s selects nothing", s.Name)
			}
		}
		for _, p := range s.Spec.Ports {
			if ports[p.TargetPort.StrVal] == 0 {
				return fmt.Errorf("service %s leads to port %v, which is none", s.Name, p.TargetPort)
			}
		}
	}
	if !found {
		return fmt.Errorf("there is no service %s", pod.service)
	}
	return nil
}

// checkCertificates looks whether the certificates have issuers, are the secrets that
// the pods mount, and name the pods.
func checkCertificates(all *objects) error {
	secrets := map[string]bool{}
	for _, c := range all.certificates {
		secrets[c.Spec.SecretName] = true
		if all.issuers[c.Spec.IssuerRef.Name] == nil {
			return fmt.Errorf("certificate %s has no issuer %s", c.Name, c.Spec.IssuerRef.Name)
		}
		if c.Name != c.Spec.SecretName {
			return fmt.Errorf("certificate %s is in secret %s", c.Name, c.Spec.SecretName)
		}
		for _, pod := range []string{"pebbledash-0", "pebbledash-1", "pebbledash-2"} {
			if name := pod + ".pebbledash.pebbledash.svc"; slices.Contains(c.Spec.Usages, certmanager.UsageServerAuth) && !slices.Contains(c.Spec.DNSNames, name) {
				return fmt.Errorf("certificate %s is not for %s", c.Name, name)
			}
		}
	}
	for _, issuer := range all.issuers {
		if ca := issuer.Spec.CA; ca != nil && !secrets[ca.SecretName] {
			return fmt.Errorf("issuer %s has no secret %s", issuer.Name, ca.SecretName)
		}
	}
	return nil
}

// TestStatefulSetSecrets looks whether the pods mount what cert-manager makes.
func TestStatefulSetSecrets(t *testing.T) {
	pods, err := decode(read(t, root+"/statefulset/pebbledash.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := decode(read(t, root+"/statefulset/certificates.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range pods.pods[0].spec.Volumes {
		if !slices.ContainsFunc(certs.certificates, func(c *certmanager.Certificate) bool { return c.Spec.SecretName == v.Secret.SecretName }) {
			t.Errorf("nobody makes the secret %s", v.Secret.SecretName)
		}
	}
}
