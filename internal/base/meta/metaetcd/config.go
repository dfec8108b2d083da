package metaetcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// DefaultPrefix is the prefix unless one is given.
	DefaultPrefix = "looptape"
	// DefaultTimeout bounds a call unless told otherwise. etcd itself gives up
	// after about 7 s.
	DefaultTimeout = 8 * time.Second
	// keepAliveEvery and keepAliveWait find a connection that is silently dead.
	keepAliveEvery = 5 * time.Second
	keepAliveWait  = 3 * time.Second
)

// Config says which etcd to use and how.
type Config struct {
	Endpoints      []string // host:port, at least one
	Prefix         string   // letters, digits and - _ . /; default DefaultPrefix
	User, Password string
	TLS            bool   // speak TLS, trusting the system's authorities or CAFile
	CAFile         string // PEM
	CertFile       string // PEM, of the client, with KeyFile
	KeyFile        string // PEM
	ServerName     string // in etcd's certificate, if not the host
	DialTimeout    time.Duration
	RequestTimeout time.Duration
}

// Parse reads a URL:
//
//	etcd://[user[:password]@]host:port[,host:port...][/prefix][?option=value&...]
//
//	tls=on|off          default off, on with any of the next four
//	ca=FILE             authorities to trust instead of the system's
//	cert=FILE&key=FILE  certificate of this client
//	server_name=NAME    name in etcd's certificate
//	password_file=FILE  the password, without the line's end
//	timeout=8s          of one call
//	dial_timeout=5s     of the first
//
// Errors don't show the URL, which may hold a password.
func Parse(rawURL string) (Config, error) {
	rest, ok := strings.CutPrefix(rawURL, "etcd://")
	if !ok {
		return Config{}, errors.New("etcd URL: it has to begin with etcd://")
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, prefix, _ := strings.Cut(rest, "/")
	var c Config
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, password, _ := strings.Cut(authority[:at], ":")
		authority = authority[at+1:]
		var err1, err2 error
		c.User, err1 = url.PathUnescape(user)
		c.Password, err2 = url.PathUnescape(password)
		if err1 != nil || err2 != nil {
			return Config{}, errors.New("etcd URL: user or password is not properly escaped")
		}
	}
	if authority != "" {
		c.Endpoints = strings.Split(authority, ",")
	}
	c.Prefix = strings.Trim(prefix, "/")
	options, err := url.ParseQuery(query)
	if err != nil {
		return Config{}, errors.New("etcd URL: the options after ? are malformed")
	}
	if err := c.set(options); err != nil {
		return Config{}, fmt.Errorf("etcd URL: %w", err)
	}
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("etcd URL: %w", err)
	}
	return c, nil
}

func (c *Config) set(options url.Values) error {
	off := false
	for name, values := range options {
		v := values[len(values)-1]
		var err error
		switch name {
		case "tls":
			if v != "on" && v != "off" {
				return errors.New("option tls is on or off")
			}
			c.TLS, off = c.TLS || v == "on", v == "off"
		case "ca":
			c.CAFile = v
		case "cert":
			c.CertFile = v
		case "key":
			c.KeyFile = v
		case "server_name":
			c.ServerName = v
		case "password_file":
			var b []byte
			if b, err = os.ReadFile(v); err != nil {
				return fmt.Errorf("option password_file: %w", err)
			}
			c.Password = strings.TrimRight(string(b), "\r\n")
		case "timeout":
			c.RequestTimeout, err = time.ParseDuration(v)
		case "dial_timeout":
			c.DialTimeout, err = time.ParseDuration(v)
		default:
			return fmt.Errorf("unknown option %q", name)
		}
		if err != nil {
			return fmt.Errorf("option %s: not a duration such as 5s", name)
		}
	}
	if c.CAFile != "" || c.CertFile != "" || c.KeyFile != "" || c.ServerName != "" {
		if off {
			return errors.New("tls=off with options of TLS")
		}
		c.TLS = true
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 5 * time.Second
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = DefaultTimeout
	}
	return c
}

// maxPrefix leaves room in a key for meta.MaxKeyBytes.
const maxPrefix = 200

func (c Config) check() error {
	if len(c.Endpoints) == 0 {
		return errors.New("no host:port")
	}
	for _, e := range c.Endpoints {
		if host, port, err := net.SplitHostPort(e); err != nil || host == "" || port == "" {
			return fmt.Errorf("%q is not host:port", e)
		}
	}
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./", r))
	}
	if strings.ContainsFunc(c.Prefix, bad) || len(c.Prefix) > maxPrefix {
		return fmt.Errorf("prefix of %d bytes: letters, digits and - _ . / are allowed, %d at most", len(c.Prefix), maxPrefix)
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("a client certificate needs cert and key")
	}
	if (c.User == "") != (c.Password == "") {
		return errors.New("a user needs a password, and a password a user")
	}
	if c.DialTimeout < 0 || c.RequestTimeout < 0 {
		return errors.New("a timeout is negative")
	}
	return nil
}

// String names the etcd without its secrets.
func (c Config) String() string { return strings.Join(c.Endpoints, ",") + "/" + c.Prefix }

// GoString is String, so that no way of printing shows the password.
func (c Config) GoString() string { return c.String() }

func (c Config) endpoints() []string {
	scheme := "http://"
	if c.TLS {
		scheme = "https://"
	}
	all := slices.Clone(c.Endpoints)
	for i := range all {
		all[i] = scheme + all[i]
	}
	return all
}

func (c Config) tls() (*tls.Config, error) {
	if !c.TLS {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %s", c.CAFile)
		}
	}
	if c.ServerName != "" {
		// gRPC puts the host it connects to into ServerName, whatever is there, so
		// the check of the name is ours: the usual one, with another name.
		roots := t.RootCAs
		t.InsecureSkipVerify = true
		t.VerifyConnection = func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("etcd shows no certificate")
			}
			options := x509.VerifyOptions{Roots: roots, DNSName: c.ServerName, Intermediates: x509.NewCertPool()}
			for _, cert := range state.PeerCertificates[1:] {
				options.Intermediates.AddCert(cert)
			}
			_, err := state.PeerCertificates[0].Verify(options)
			return err
		}
	}
	if c.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("load client certificate: %w", err)
			}
			return &cert, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		// Read at each handshake: certificates are renewed while we run.
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return t, nil
}
