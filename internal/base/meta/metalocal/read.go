package metalocal

import (
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/meta"
)

// Read returns everything in the file of a store that nobody has open, by key,
// and its revision. It changes nothing, not even the keys of ended leases.
// disk.ErrLocked: a process has it open. fs.ErrNotExist: there is no such file.
func Read(path string) (all []meta.KV, rev int64, err error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait, ReadOnly: true})
	if errors.Is(err, berrors.ErrTimeout) {
		err = disk.ErrLocked
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read metadata %s: %w", path, err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		about, kv := tx.Bucket(bucketMeta), tx.Bucket(bucketKV)
		if about == nil || kv == nil {
			return errors.New("not a metadata file")
		}
		if format, ok := number(about.Get(keyFormat)); !ok || format != formatVersion {
			return fmt.Errorf("format %d, this program reads %d", format, formatVersion)
		}
		rev, _ = number(about.Get(keyRev))
		return kv.ForEach(func(k, v []byte) error {
			one, err := decode(k, v)
			all = append(all, one)
			return err
		})
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return nil, 0, fmt.Errorf("read metadata %s: %w", path, err)
	}
	return all, rev, nil
}
