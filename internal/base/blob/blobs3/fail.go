package blobs3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/looptape/looptape/internal/base/blob"
)

// wrongError is an answer that no repetition will mend.
type wrongError struct{ what string }

func (e *wrongError) Error() string { return e.what }

func wrong(format string, args ...any) error { return &wrongError{fmt.Sprintf(format, args...)} }

// bodyError is the failure of a Put's body: the store can't have the whole object.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "read body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// cutError is an answer that broke off.
type cutError struct{ err error }

func (e *cutError) Error() string { return "the answer broke off: " + e.err.Error() }
func (e *cutError) Unwrap() error { return e.err }

// answer finds the store's own word in an error.
func answer(err error) (minio.ErrorResponse, bool) {
	var r minio.ErrorResponse
	ok := errors.As(err, &r)
	return r, ok
}

// status is the HTTP status of an answer, 0 if there was none.
func status(err error) int {
	r, _ := answer(err)
	return r.StatusCode
}

// passing are error codes of S3 that come with a status that would mean more.
var passing = map[string]bool{
	"RequestTimeout": true, "SlowDown": true, "InternalError": true, "BadDigest": true, "IncompleteBody": true,
	"XAmzContentSHA256Mismatch": true, "XAmzContentChecksumMismatch": true, "ExpiredToken": true, "Throttling": true,
}

// transient tells whether a repetition may go better. Of a Put it means that the
// outcome is open.
func transient(err error) bool {
	var w *wrongError
	var b *bodyError
	switch {
	case err == nil, errors.Is(err, blob.ErrExists), errors.Is(err, blob.ErrNotFound), errors.Is(err, blob.ErrRange),
		errors.Is(err, errNoCredentials), errors.As(err, &w), errors.As(err, &b), untrusted(err) != "":
		return false
	}
	if r, ok := answer(err); ok {
		switch r.StatusCode {
		case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests, 499:
			return true
		case http.StatusNotImplemented:
			return false
		}
		return r.StatusCode >= 500 || passing[r.Code]
	}
	return true // the connection
}

// untrusted says what is wrong between the endpoint's scheme and what answers
// there, if anything is.
func untrusted(err error) string {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &authority):
		return "the certificate of the endpoint is not trusted: give the authority's with ca=FILE in the URL"
	case errors.As(err, &host), errors.As(err, &invalid):
		return "the certificate of the endpoint is not valid: " + clean(err.Error())
	case errors.As(err, &record), strings.Contains(fmt.Sprint(err), "server gave HTTP response to HTTPS client"):
		return "the endpoint speaks http, the URL says https"
	}
	return ""
}

// explain turns an error of the library into ours: what it means and what to do,
// without anything the server said that may hold a secret.
func (s *Store) explain(err error) error {
	var u *url.Error
	why := untrusted(err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNoCredentials):
		return refused("%s", errNoCredentials)
	case why != "":
		return refused("%s", why)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the store did not answer in time: %w", err)
	}
	if r, ok := answer(err); ok {
		return s.explainAnswer(r)
	}
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (s *Store) explainAnswer(r minio.ErrorResponse) error {
	said := fmt.Sprintf("HTTP %d %s", r.StatusCode, clean(r.Code))
	if r.RequestID != "" {
		said += ", request " + clean(r.RequestID)
	}
	region := clean(r.Region)
	switch {
	case r.Code == minio.NoSuchBucket:
		return refused("the bucket does not exist: create it, or correct the URL (%s)", said)
	case r.StatusCode >= 300 && r.StatusCode < 400, r.Code == "AuthorizationHeaderMalformed", r.Code == "InvalidRegion":
		if region != "" && region != s.cfg.Region {
			return refused("the bucket is in another region: set region=%s in the URL (%s)", region, said)
		}
		return refused("the bucket is in another region or at another endpoint: correct region= and endpoint= in the URL (%s)", said)
	case r.Code == "InvalidAccessKeyId", r.Code == "XAdminUserNotFound", r.Code == "SignatureDoesNotMatch", r.Code == "InvalidToken", r.StatusCode == http.StatusUnauthorized:
		return refused("the credentials are not accepted: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or the role (%s)", said)
	case r.Code == "RequestTimeTooSkewed":
		return refused("the clock of this machine differs too much from the store's: set it, and keep it set with NTP (%s)", said)
	case r.StatusCode == http.StatusForbidden:
		return refused("access is denied: the credentials in use need s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on bucket %s (%s)", s.cfg.Bucket, said)
	case r.StatusCode == http.StatusBadRequest && strings.HasPrefix(r.Code, "400") && strings.HasPrefix(s.cfg.Endpoint, "http://"):
		return refused("the endpoint does not understand the request: does it speak https? (%s)", said)
	}
	return fmt.Errorf("the store answered %s", said)
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", blob.ErrRefused, fmt.Sprintf(format, args...))
}

// clean makes a short printable text of one that a server chose.
func clean(s string) string {
	const most = 120
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), most)]
}
