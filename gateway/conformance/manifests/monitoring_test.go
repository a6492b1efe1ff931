package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	_ "github.com/prometheus/prometheus/discovery/kubernetes" // kubernetes_sd_configs
	"github.com/prometheus/prometheus/model/rulefmt"
)

// metaLabels are those of Prometheus' discovery that relabelling reads.
var metaLabels = []string{
	"__meta_kubernetes_pod_label_app_kubernetes_io_name", "__meta_kubernetes_pod_container_port_name", "__meta_kubernetes_pod_name",
}

func checkScrape(_ *testing.T, content string) error {
	c, err := config.Load(content, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if len(c.ScrapeConfigs) != 2 || !slices.Equal(c.RuleFiles, []string{"rules.yaml"}) {
		return errors.New("it scrapes nothing, or has no rules")
	}
	for _, label := range regexp.MustCompile(`__meta_\w+`).FindAllString(content, -1) {
		if !slices.Contains(metaLabels, label) {
			return fmt.Errorf("there is no label %s", label)
		}
	}
	return nil
}

func checkRules(t *testing.T, content string) error {
	t.Helper()
	groups, errs := rulefmt.Parse([]byte(content), false, model.LegacyValidation, language, slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	known := knownMetrics(t)
	alerts := map[string]bool{}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			said, err := checkQuery(known, rule.Expr)
			if err != nil {
				return fmt.Errorf("%s%s: %w", rule.Record, rule.Alert, err)
			}
			if rule.Record != "" {
				known[rule.Record] = said
				continue
			}
			if alerts[rule.Alert] || !strings.HasPrefix(rule.Alert, "Pebbledash") {
				return fmt.Errorf("%s is there twice, or has a strange name", rule.Alert)
			}
			alerts[rule.Alert] = true
			if s := rule.Labels["severity"]; s != "warning" && s != "critical" {
				return fmt.Errorf("%s has severity %q", rule.Alert, s)
			}
			text := strings.Join(slices.Collect(maps.Values(rule.Annotations)), "\n")
			for _, label := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(text, -1) {
				if !said[label[1]] {
					return fmt.Errorf("%s: its text names label %s, which it does not have", rule.Alert, label[1])
				}
			}
		}
	}
	return nil
}

// dashboard is as much of Grafana's format as we write.
type dashboard struct {
	Title         string         `json:"title"`
	UID           string         `json:"uid"`
	SchemaVersion int            `json:"schemaVersion"`
	Version       int            `json:"version"`
	Editable      bool           `json:"editable"`
	Tags          []string       `json:"tags"`
	Timezone      string         `json:"timezone"`
	Refresh       string         `json:"refresh"`
	Time          map[string]any `json:"time"`
	Annotations   struct {
		List []any `json:"list"`
	} `json:"annotations"`
	Templating struct {
		List []dashboardVariable `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type dashboardVariable struct {
	Name       string          `json:"name"`
	Type       string          `json:"type"`
	Datasource *datasource     `json:"datasource"`
	Query      json.RawMessage `json:"query"`
	Refresh    int             `json:"refresh"`
	IncludeAll bool            `json:"includeAll"`
	Multi      bool            `json:"multi"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type panel struct {
	ID          int         `json:"id"`
	Type        string      `json:"type"`
	Title       string      `json:"title"`
	Collapsed   bool        `json:"collapsed"`
	Panels      []panel     `json:"panels"`
	Datasource  *datasource `json:"datasource"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
		Overrides []any `json:"overrides"`
	} `json:"fieldConfig"`
	GridPos *struct {
		H, W, X, Y int
	} `json:"gridPos"`
	Targets []struct {
		RefID        string `json:"refId"`
		Expr         string `json:"expr"`
		LegendFormat string `json:"legendFormat"`
	} `json:"targets"`
}

// rows are those that the dashboard has.
var rows = []string{"Overview", "Groups", "Revision line", "Watch cache", "Limiter", "Pebble", "gRPC"}

var (
	variableUse = regexp.MustCompile(`\$(\w+)`)
	legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)
	labelValues = regexp.MustCompile(`label_values\((.+), (\w+)\)`)
)

func checkDashboard(t *testing.T, content string) error {
	t.Helper()
	var d dashboard
	decoder := json.NewDecoder(bytes.NewReader([]byte(content)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return err
	}
	known := knownMetrics(t)
	// What Grafana puts in for variables; any value is as good for the parser.
	values := map[string]string{"__rate_interval": "5m"}
	for _, v := range d.Templating.List {
		values[v.Name] = "x"
	}
	var missing []string
	query := func(q string) (labels, error) {
		filled := variableUse.ReplaceAllStringFunc(q, func(use string) string {
			if values[use[1:]] == "" {
				missing = append(missing, use)
			}
			return values[use[1:]]
		})
		if len(missing) > 0 {
			return nil, fmt.Errorf("there is no variable %v", missing)
		}
		return checkQuery(known, filled)
	}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		var asked struct{ Query, RefID string }
		if err := json.Unmarshal(v.Query, &asked); err != nil {
			return err
		}
		parts := labelValues.FindStringSubmatch(asked.Query)
		if parts == nil {
			return fmt.Errorf("%q is no query for values", asked.Query)
		}
		said, err := query(parts[1])
		if err != nil || !said[parts[2]] {
			return fmt.Errorf("variable %s: label %s: %w", v.Name, parts[2], err)
		}
	}
	var titles []string
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.GridPos == nil {
			return fmt.Errorf("panel %q has no place, or another's id", p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			titles = append(titles, p.Title)
			continue
		}
		if len(p.Targets) == 0 || p.Datasource == nil {
			return fmt.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			said, err := query(target.Expr)
			if err != nil {
				return fmt.Errorf("panel %q: %w", p.Title, err)
			}
			for _, label := range legendLabel.FindAllStringSubmatch(target.LegendFormat, -1) {
				if !said[label[1]] {
					return fmt.Errorf("panel %q: the legend names label %s, which is not there", p.Title, label[1])
				}
			}
		}
	}
	if !slices.Equal(titles, rows) {
		return fmt.Errorf("the rows are %q", titles)
	}
	return nil
}
