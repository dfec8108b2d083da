//go:build servers

package metaetcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/test/rig"
)

// certificates puts an authority (ca.pem) and what it signed for a server and a
// client ({name}.pem, {name}.key) into dir.
func certificates(t *testing.T, dir string) {
	t.Helper()
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	make := func(serial int64, name string, template x509.Certificate, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template.SerialNumber, template.Subject = big.NewInt(serial), pkix.Name{CommonName: name}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		if parent == nil {
			parent, by = &template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, &template, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".pem", "CERTIFICATE", der)
		write(name+".key", "EC PRIVATE KEY", secret)
		return cert, key
	}
	ca, caKey := make(1, "ca", x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	make(2, "server", x509.Certificate{ExtKeyUsage: usage, KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"etcd.test"}}, ca, caKey)
	make(3, "client", x509.Certificate{ExtKeyUsage: usage, KeyUsage: x509.KeyUsageDigitalSignature}, ca, caKey)
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	certificates(t, dir)
	at := fmt.Sprintf("127.0.0.1:%d", rig.Port(t))
	peer := fmt.Sprintf("http://127.0.0.1:%d", rig.Port(t))
	file := func(name string) string { return filepath.Join(dir, name) }
	rig.Start(t, dir, filepath.Join(rig.Root(), ".cache", "bin", "etcd"),
		"--name", "test", "--data-dir", file("data"), "--log-level", "warn",
		"--listen-client-urls", "https://"+at, "--advertise-client-urls", "https://"+at,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "test="+peer,
		"--cert-file", file("server.pem"), "--key-file", file("server.key"), "--trusted-ca-file", file("ca.pem"), "--client-cert-auth")
	url := fmt.Sprintf("etcd://%s/tls?ca=%s&cert=%s&key=%s&dial_timeout=2s", at, file("ca.pem"), file("client.pem"), file("client.key"))
	var s *Store
	rig.Until(t, 30*time.Second, func() error {
		cfg, err := Parse(url)
		if err == nil {
			s, err = Open(t.Context(), cfg)
		}
		return err
	})
	defer s.Close()
	named, err := Parse(url + "&server_name=etcd.test")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := Open(t.Context(), named); err != nil {
		t.Errorf("the other of its names: %v", err)
	} else if err := n.Close(); err != nil {
		t.Error(err)
	}
	if r, err := s.Txn(t.Context(), aPut); err != nil || !r.OK {
		t.Errorf("%+v, %v", r, err)
	}
	if id, err := s.Grant(t.Context(), time.Minute); err != nil {
		t.Error(err)
	} else if _, err := s.KeepAlive(t.Context(), id); err != nil {
		t.Error(err)
	}
	if h := s.Health(t.Context())[0]; h.Err != nil || h.Version == "" || !h.Leader {
		t.Errorf("health %+v", h)
	}
	for name, url := range map[string]string{
		"no TLS":           fmt.Sprintf("etcd://%s/tls?dial_timeout=1s", at),
		"no authority":     fmt.Sprintf("etcd://%s/tls?tls=on&dial_timeout=1s", at),
		"no certificate":   fmt.Sprintf("etcd://%s/tls?ca=%s&dial_timeout=1s", at, file("ca.pem")),
		"another name":     url + "&server_name=other",
		"no such file":     fmt.Sprintf("etcd://%s/tls?ca=%s", at, file("none")),
		"not an authority": fmt.Sprintf("etcd://%s/tls?ca=%s", at, file("ca.key")),
	} {
		cfg, err := Parse(url)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := Open(t.Context(), cfg); err == nil {
			t.Errorf("%s: open", name)
			_ = s.Close()
		}
	}
}

// A user with a role for one prefix can do everything there and nothing elsewhere;
// tokens that run out are renewed unnoticed, and a watch goes on.
func TestUser(t *testing.T) {
	server := rig.Etcd(t, "--auth-token-ttl", "2")
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	step := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(admin.RoleAdd(t.Context(), "root"))
	step(admin.UserAdd(t.Context(), "root", "rootpass"))
	step(admin.UserGrantRole(t.Context(), "root", "root"))
	step(admin.RoleAdd(t.Context(), "mine"))
	step(admin.RoleGrantPermission(t.Context(), "mine", "mine:", clientv3.GetPrefixRangeEnd("mine:"), clientv3.PermissionType(clientv3.PermReadWrite)))
	step(admin.UserAdd(t.Context(), "user", "hunter2"))
	step(admin.UserGrantRole(t.Context(), "user", "mine"))
	step(admin.AuthEnable(t.Context()))
	for name, url := range map[string]string{
		"no user":        "etcd://" + server.Addr + "/mine",
		"wrong password": "etcd://user:hunter3@" + server.Addr + "/mine",
		"other prefix":   "etcd://user:hunter2@" + server.Addr + "/other",
	} {
		cfg, err := Parse(url)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), cfg)
		if !errors.Is(err, meta.ErrDenied) || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = s.Close()
		}
	}
	s := openURL(t, "etcd://user:hunter2@"+server.Addr+"/mine")
	w := s.Watch(t.Context(), "", 0)
	id, err := s.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		r, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put("k", []byte{byte(i)}).WithLease(id)}})
		if err != nil || !r.OK {
			t.Fatalf("%+v, %v", r, err)
		}
		if b := <-w; b.Rev != r.Rev || b.Err != nil {
			t.Errorf("%+v, want %d", b, r.Rev)
		}
		if _, err := s.KeepAlive(t.Context(), id); err != nil {
			t.Error(err)
		}
		time.Sleep(2500 * time.Millisecond) // the token runs out by etcd's clock
	}
	other := &Store{client: s.client, cfg: s.cfg, prefix: "other:", watches: run.New(t.Context())}
	if _, err := other.Txn(t.Context(), aPut); !errors.Is(err, meta.ErrDenied) || errors.Is(err, meta.ErrUnknown) {
		t.Errorf("other prefix: %v", err)
	}
	if b := <-other.Watch(t.Context(), "", 0); b.Err == nil {
		t.Errorf("watch of another prefix: %+v", b)
	}
}
