package govern

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/looptape/looptape/internal/loop/event"
)

// ClaimBytes is the size above which a body goes to the object store.
const ClaimBytes = 256 << 10

// MaxClaimBytes bounds a body that is put or resolved.
const MaxClaimBytes = 64 << 20

// claimScheme begins every reference: claim:sha256/<64 hex digits>/<bytes>.
const claimScheme = "claim:sha256/"

var (
	// ErrBadClaim says that a reference is not one Claims wrote.
	ErrBadClaim = errors.New("not a claim reference")
	// ErrCorruptClaim says that the stored bytes are not those that were put.
	ErrCorruptClaim = errors.New("claimed body differs from its hash")
)

// Objects is the part of an object store that Claims needs: put once under a
// key, read back a range. base/blob's stores have it.
type Objects interface {
	Put(ctx context.Context, key string, body io.ReaderAt, size int64) error
	GetRange(ctx context.Context, key string, off int64, dst []byte) (n int, err error)
}

// Claims keeps bodies that are too large for a record. It may be used from many
// goroutines.
type Claims struct{ objects Objects }

// NewClaims returns the claims kept in objects under the prefix "claims/".
func NewClaims(objects Objects) *Claims { return &Claims{objects} }

// Put stores body for tenant and returns its reference. The body is durable when
// Put returns nil. The same body always has the same reference, so Put may be
// repeated; event names the event for error messages only.
func (c *Claims) Put(ctx context.Context, tenant, event string, body []byte) (ref string, err error) {
	if len(body) > MaxClaimBytes {
		return "", fmt.Errorf("claim body of event %s: %d bytes, limit is %d", event, len(body), MaxClaimBytes)
	}
	sum := sha256.Sum256(body)
	key := claimKey(tenant, sum)
	ref = claimScheme + hex.EncodeToString(sum[:]) + "/" + strconv.Itoa(len(body))
	putErr := c.objects.Put(ctx, key, bytes.NewReader(body), int64(len(body)))
	if putErr == nil {
		return ref, nil
	}
	// The key is the hash of the bytes: whoever put them, if they can be read
	// back whole they are stored. That covers both "exists" and "unknown".
	if _, err := c.read(ctx, key, sum, len(body)); err != nil {
		return "", fmt.Errorf("put body of event %s: %w", event, putErr)
	}
	return ref, nil
}

// Resolve fills in the body of an event that carries a reference; others it
// leaves alone. ErrBadClaim and ErrCorruptClaim are final, any other error may
// pass.
func (c *Claims) Resolve(ctx context.Context, e *event.Event) error {
	if e.DataRef == "" || len(e.Data) > 0 {
		return nil
	}
	sum, size, err := parseClaim(e.DataRef)
	if err != nil {
		return fmt.Errorf("resolve body of event %s: %w", e.ID, err)
	}
	body, err := c.read(ctx, claimKey(e.Facts.Tenant, sum), sum, size)
	if err != nil {
		return fmt.Errorf("resolve body of event %s: %w", e.ID, err)
	}
	e.Data = body
	return nil
}

func (c *Claims) read(ctx context.Context, key string, sum [sha256.Size]byte, size int) ([]byte, error) {
	body := make([]byte, size)
	if _, err := c.objects.GetRange(ctx, key, 0, body); err != nil {
		return nil, err
	}
	if sha256.Sum256(body) != sum {
		return nil, ErrCorruptClaim
	}
	return body, nil
}

func parseClaim(ref string) (sum [sha256.Size]byte, size int, err error) {
	rest, ok := strings.CutPrefix(ref, claimScheme)
	digits, length, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 || len(digits) != hex.EncodedLen(sha256.Size) {
		return sum, 0, ErrBadClaim
	}
	if _, err := hex.Decode(sum[:], []byte(digits)); err != nil {
		return sum, 0, ErrBadClaim
	}
	size, err = strconv.Atoi(length)
	if err != nil || size <= 0 || size > MaxClaimBytes {
		return sum, 0, ErrBadClaim
	}
	return sum, size, nil
}

// claimKey is the object's key: claims/<tenant>/<2 digits>/<64 digits>. A tenant
// that is no plain word is written as its hash behind a "=", which no plain word
// has, so that two tenants never share a key.
func claimKey(tenant string, sum [sha256.Size]byte) string {
	digits := hex.EncodeToString(sum[:])
	return "claims/" + tenantSegment(tenant) + "/" + digits[:2] + "/" + digits
}

func tenantSegment(tenant string) string {
	plain := tenant != "" && len(tenant) <= 64
	for i := 0; plain && i < len(tenant); i++ {
		b := tenant[i]
		plain = b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '_' || b == '-' && i > 0
	}
	if plain {
		return tenant
	}
	h := sha256.Sum256([]byte(tenant))
	return "=" + hex.EncodeToString(h[:])
}
