package metaetcd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("s3cret\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := Config{Endpoints: []string{"a:2379"}, Prefix: "looptape", DialTimeout: 5 * time.Second, RequestTimeout: DefaultTimeout}
	with := func(change func(*Config)) Config {
		c := base
		change(&c)
		return c
	}
	for url, want := range map[string]Config{
		"etcd://a:2379":  base,
		"etcd://a:2379/": base,
		"etcd://a:2379,[::1]:2380/team/prod/": with(func(c *Config) {
			c.Endpoints, c.Prefix = []string{"a:2379", "[::1]:2380"}, "team/prod"
		}),
		"etcd://root:p%40ss@a:2379":                  with(func(c *Config) { c.User, c.Password = "root", "p@ss" }),
		"etcd://root@a:2379?password_file=" + secret: with(func(c *Config) { c.User, c.Password = "root", "s3cret" }),
		"etcd://a:2379?tls=on":                       with(func(c *Config) { c.TLS = true }),
		"etcd://a:2379?tls=off":                      base,
		"etcd://a:2379/p?ca=/ca.pem&cert=/c&key=/k&server_name=n": with(func(c *Config) {
			c.Prefix, c.TLS, c.CAFile, c.CertFile, c.KeyFile, c.ServerName = "p", true, "/ca.pem", "/c", "/k", "n"
		}),
		"etcd://a:2379?timeout=3s&dial_timeout=1s": with(func(c *Config) { c.RequestTimeout, c.DialTimeout = 3*time.Second, time.Second }),
	} {
		got, err := Parse(url)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", url, err, d)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for url, why := range map[string]string{
		"http://a:2379":       "etcd://",
		"etcd://":             "no host",
		"etcd:///prefix":      "no host",
		"etcd://a":            "host:port",
		"etcd://a:2379,":      "host:port",
		"etcd://a:2379/a:b":   "prefix",
		"etcd://a:2379/a%20b": "prefix",
		"etcd://a:2379/" + strings.Repeat("p", maxPrefix+1): "prefix",
		"etcd://u:hunter2%zz@a:2379":                        "escaped",
		"etcd://u@a:2379":                                   "needs a password",
		"etcd://:hunter2@a:2379":                            "a user",
		"etcd://u:hunter2@a:2379?x=1":                       "unknown option",
		"etcd://a:2379?tls=maybe":                           "on or off",
		"etcd://a:2379?tls=off&ca=/ca":                      "tls=off",
		"etcd://a:2379?cert=/c":                             "cert and key",
		"etcd://a:2379?timeout=5":                           "duration",
		"etcd://a:2379?timeout=-5s":                         "negative",
		"etcd://u:hunter2@a:2379?x=%zz":                     "malformed",
		"etcd://a:2379?password_file=/n":                    "password_file",
	} {
		_, err := Parse(url)
		if err == nil || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", url, err, why)
		}
	}
}

func TestNoSecretIsPrinted(t *testing.T) {
	c, err := Parse("etcd://root:hunter2@a:2379/p")
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(verb, c); s != "a:2379/p" {
			t.Errorf("%s: %s", verb, s)
		}
	}
}

func TestTooOld(t *testing.T) {
	for v, want := range map[string]bool{
		"3.5.7": true, "3.4.30": true, "2.3.0": true, "3.5.8": false, "3.5.8-rc.1": false, "3.6.0": false, "4.0.0": false, "3.7.3": false, "own": false,
	} {
		if tooOld(v) != want {
			t.Errorf("%s: %v", v, !want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, url := range []string{"etcd://a:1", "etcd://u:p%40@a:1,[::1]:2/p/q?tls=on&timeout=3s", "etcd://u:p@/?ca=x", "etcd://%zz@:?&&=;"} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		if strings.Contains(url, "_file") {
			return // it would read files
		}
		c, err := Parse(url)
		if err != nil {
			return
		}
		if err := c.check(); err != nil {
			t.Errorf("%q: parsed to what is refused: %v", url, err)
		}
		if strings.ContainsAny(c.Prefix, ": ") || strings.HasPrefix(c.Prefix, "/") {
			t.Errorf("%q: prefix %q", url, c.Prefix)
		}
	})
}
