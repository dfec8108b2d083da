package blobs3

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// newTransport returns a bounded pool of connections of our own.
func newTransport(cfg Config) (http.RoundTripper, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: min(5*time.Second, cfg.Timeout), KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   cfg.Timeout,
		MaxConnsPerHost:       cfg.MaxConns,
		MaxIdleConns:          cfg.MaxConns,
		MaxIdleConnsPerHost:   cfg.MaxConns,
		IdleConnTimeout:       time.Minute,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // ranges count the bytes as they are
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       64 << 10,
	}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("certificates of the object store: %w", err)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificates of the object store: %s holds none in PEM form", cfg.CAFile)
		}
	}
	return dated{t}, nil
}

// dateKey is where a request's context has a *string for the Date of the answer.
type dateKey struct{}

// dated hands over the Date of answers.
type dated struct{ next http.RoundTripper }

func (d dated) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := d.next.RoundTrip(req)
	if to, ok := req.Context().Value(dateKey{}).(*string); ok && err == nil {
		*to = res.Header.Get("Date")
	}
	return res, err
}

// chain asks for credentials where they usually are: the environment, the shared
// files, then the role of the pod, container or machine. Unlike the library's it
// fails when there are none, instead of going on without.
type chain struct{ found credentials.Provider }

// errNoCredentials says what to do about it.
var errNoCredentials = errors.New("no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or fill ~/.aws/credentials (AWS_PROFILE names the profile), or give the machine a role")

func (c *chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	// Machines that have no such service let the last one wait in vain.
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, DisableKeepAlives: true}}
	for _, p := range []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Client: client}} {
		v, err := p.RetrieveWithCredContext(cc)
		if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			c.found = p
			return v, nil
		}
	}
	return credentials.Value{}, errNoCredentials
}

func (c *chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

func (c *chain) IsExpired() bool { return c.found == nil || c.found.IsExpired() }
