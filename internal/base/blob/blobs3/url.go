package blobs3

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/looptape/looptape/internal/base/blob"
)

// Form is how the URL of a store looks.
const Form = "s3://bucket/prefix?endpoint=URL&region=REGION&style=path|host&ca=FILE"

// ParseURL reads the URL of a store, see Form; all parameters may be left out.
// Errors don't repeat the URL, which may hold what does not belong into it.
func ParseURL(raw string) (Config, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "s3" || u.Opaque != "" || u.Fragment != "" {
		return Config{}, fmt.Errorf("object store URL: want %s", Form)
	}
	if u.User != nil {
		return Config{}, errors.New("object store URL holds credentials: put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials")
	}
	c := Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Config{}, fmt.Errorf("object store URL: want %s", Form)
	}
	for name, values := range query {
		to := map[string]*string{"endpoint": &c.Endpoint, "region": &c.Region, "style": &c.Style, "ca": &c.CAFile}[name]
		switch {
		case to == nil && len(name) < 20:
			return Config{}, fmt.Errorf("object store URL: unknown parameter %q: want %s", name, Form)
		case to == nil:
			return Config{}, fmt.Errorf("object store URL: unknown parameter: want %s", Form)
		case len(values) != 1:
			return Config{}, fmt.Errorf("object store URL: %s is given twice", name)
		}
		*to = values[0]
	}
	if c.Region == "" {
		c.Region = os.Getenv("AWS_REGION")
	}
	if c.Region == "" {
		c.Region = os.Getenv("AWS_DEFAULT_REGION")
	}
	return c, c.check()
}

// check returns what is wrong with the configuration.
func (c Config) check() error {
	if !bucketName(c.Bucket) {
		return fmt.Errorf("object store URL: a bucket's name has 3 to 63 of a-z, 0-9, - and .: want %s", Form)
	}
	if c.Prefix != "" {
		if err := blob.CheckKey(c.Prefix); err != nil {
			return fmt.Errorf("object store URL: prefix: %w", err)
		}
	}
	if c.Style != "" && c.Style != "path" && c.Style != "host" {
		return errors.New("object store URL: style is path or host")
	}
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return errors.New("object store URL: endpoint is the server's URL alone, as https://host:port")
		}
	}
	return nil
}

func bucketName(s string) bool {
	if len(s) < 3 || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && i < len(s)-1 && (c == '-' || c == '.')) {
			return false
		}
	}
	return true
}
