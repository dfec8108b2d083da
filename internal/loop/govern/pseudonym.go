package govern

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keyBytes is the length of the pseudonym key.
const keyBytes = 32

// pseudonymMark begins every pseudonym, so that one that comes back from a client
// is known and not turned into another.
const pseudonymMark = "p1_"

// Pseudonyms gives people stable pseudonyms. It may be used from many goroutines.
type Pseudonyms struct{ key [keyBytes]byte }

// OpenPseudonyms reads the key from file, or creates it with mode 0600. The file
// appears whole or not at all, and when several processes create it at once all
// end with the same key. A file that is readable by others, or that is no key, is
// an error: a new key would silently unlink everybody from their past.
func OpenPseudonyms(file string) (*Pseudonyms, error) {
	p := &Pseudonyms{}
	err := p.read(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createKey(file); err != nil {
			return nil, fmt.Errorf("create pseudonym key %s: %w", file, err)
		}
		err = p.read(file)
	}
	if err != nil {
		return nil, fmt.Errorf("open pseudonym key %s: %w", file, err)
	}
	return p, nil
}

// Pseudonym is the pseudonym of a user id within a tenant: the same for ever as
// long as the key is the same. The empty id has none, and a pseudonym stays what
// it is.
func (p *Pseudonyms) Pseudonym(tenant, user string) string {
	if user == "" || isPseudonym(user) {
		return user
	}
	mac := hmac.New(sha256.New, p.key[:])
	mac.Write([]byte("looptape/subject/v1\x00" + tenant + "\x00" + user))
	return pseudonymMark + hex.EncodeToString(mac.Sum(nil)[:16])
}

func isPseudonym(s string) bool {
	digits, ok := strings.CutPrefix(s, pseudonymMark)
	if !ok || len(digits) != 32 {
		return false
	}
	for i := range len(digits) {
		if c := digits[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

func (p *Pseudonyms) read(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others may read it (mode %04o): make it 0600", info.Mode().Perm())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	line := strings.TrimSuffix(string(b), "\n")
	if len(line) != hex.EncodedLen(keyBytes) {
		return fmt.Errorf("want %d hex digits, got %d bytes", hex.EncodedLen(keyBytes), len(line))
	}
	if _, err := hex.Decode(p.key[:], []byte(line)); err != nil {
		return errors.New("not hex digits")
	}
	return nil
}

// createKey writes a new key beside file, syncs it and links it into place, which
// fails if somebody was first; then theirs stands.
func createKey(file string) (err error) {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var key [keyBytes]byte
	if _, err := rand.Read(key[:]); err != nil {
		return err
	}
	if _, err := f.WriteString(hex.EncodeToString(key[:]) + "\n"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// The name is durable from here on: a crash can't bring back another key.
	return d.Sync()
}
