package gate

import (
	"strings"
	"testing"
)

func loadEmbedded(t testing.TB, name string) *Policy {
	t.Helper()
	b, err := Embedded(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := LoadPolicy(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEmbeddedPolicies(t *testing.T) {
	for name, total := range map[string]float64{PolicyDefault: 0.015, PolicyDemo: 0.020} {
		p := loadEmbedded(t, name)
		if d := p.AlphaTotal() - total; d > 1e-12 || d < -1e-12 {
			t.Errorf("%s spends %v, want %v", name, p.AlphaTotal(), total)
		}
		if l := strings.Join(p.Lint(), "\n"); !strings.Contains(l, "at most 0.0") {
			t.Errorf("lint of %s does not say what it spends:\n%s", name, l)
		}
		again, err := ParseCanonical(p.Canonical())
		if err != nil {
			t.Fatal(err)
		}
		if again.Hash() != p.Hash() {
			t.Errorf("%s: hash %s after a round trip, want %s", name, again.Hash(), p.Hash())
		}
	}
}

func TestLoadPolicyReportsEverything(t *testing.T) {
	_, err := LoadPolicy([]byte(`apiVersion: looptape/v2
kind: ReleaseGate
metadata: {name: x, version: 1, owner: me}
spec:
  unit: household
  alpha: {rollback: 2}
  guards:
    - {metric: grounded, good: upwards, margin: 0.01, fallback_weight: 7}
    - {metric: grounded, good: high, margin: much}
  watermark: {missing: ignore}
  rules:
    - when: 'g.loge >= thr.rollback'
      do: rollback
    - when: 'm["groundd"].log_e >= thr.critical'
      do: rollback
    - when: 'm["grounded"].effect < -0.1'
      do: rollback
    - when: 'v.n_candidate'
      do: explode
  colour: red
`))
	if err == nil {
		t.Fatal("loaded")
	}
	for _, want := range []string{
		"line 1: apiVersion", "line 3: metadata.owner: unknown key", "line 5: spec.unit", "line 6: spec.alpha.rollback",
		"line 8: spec.guards[0].good", "line 8: spec.guards[0].fallback_weight", "line 9: spec.guards[1].margin",
		"spec.guards[1].metric: \"grounded\" is guarded twice", "line 10: spec.watermark.missing",
		"line 12: spec.rules[0].when: column 2: undefined field 'loge'", "line 14: spec.rules[1].when: metric \"groundd\" is not guarded",
		"line 16: spec.rules[2].when: a rollback rule must compare", "line 18: spec.rules[3].when: must be true or false",
		"line 19: spec.rules[3].do", "line 20: spec.colour: unknown key",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
}

func TestPolicyCasesRun(t *testing.T) {
	b, err := Embedded(PolicyDefault)
	if err != nil {
		t.Fatal(err)
	}
	_, err = LoadPolicy([]byte(strings.Replace(string(b), "want: advance", "want: rollback", 1)))
	if err == nil || !strings.Contains(err.Error(), "the rules do advance, the case wants rollback") {
		t.Fatalf("err = %v", err)
	}
}

func TestPolicyHash(t *testing.T) {
	b, err := Embedded(PolicyDefault)
	if err != nil {
		t.Fatal(err)
	}
	p := loadEmbedded(t, PolicyDefault)
	for from, to := range map[string]string{
		"margin: 0.002":    "margin: 0.003",
		"rollback: 0.011":  "rollback: 0.012",
		"unit_close: 60s":  "unit_close: 61s",
		">= thr.srm'":      ">= thr.srm '",
		"guess: 0.90":      "guess: 0.91",
		"max_requests: 20": "max_requests: 21",
	} {
		q, err := LoadPolicy([]byte(strings.Replace(string(b), from, to, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if q.Hash() == p.Hash() {
			t.Errorf("%s: the hash did not change", to)
		}
	}
	q, err := LoadPolicy([]byte("# a comment\n" + string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if q.Hash() != p.Hash() {
		t.Error("a comment changed the hash")
	}
}

func FuzzLoadPolicy(f *testing.F) {
	for _, name := range []string{PolicyDefault, PolicyDemo} {
		b, err := Embedded(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("spec: &a\n  spec: *a\n"))
	f.Add([]byte("spec: {rules: [{when: 'g.log_e >= thr.rollback', do: rollback}]}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := LoadPolicy(b)
		if err == nil && p.Hash() == "" {
			t.Fatal("a policy without a hash")
		}
	})
}
