package write

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// manifestPrefix is what the keys of the cluster's manifests start with.
func manifestPrefix(cluster string) string { return "manifest/" + cluster + "/" }

// stage makes a replacement that is too large for one transaction: the manifest
// first, then the key that decides it, then everything it says.
func (b *Base) stage(ctx context.Context, r catalog.Replace) error {
	manifest, err := catalog.NewManifest(r)
	if err != nil {
		return err
	}
	name := b.identity().Name()
	b.Names.add(name)
	defer b.Names.remove(name)
	key := manifestPrefix(b.Catalog.ClusterID()) + name
	if err := b.Store.Put(ctx, key, bytes.NewReader(manifest), int64(len(manifest))); err != nil && !errors.Is(err, blob.ErrExists) {
		return fmt.Errorf("put manifest %s: %w", name, err) // the sweeper finds it
	}
	s, err := b.Writer.Stage(ctx, name, manifest, r)
	if err != nil {
		return err
	}
	return b.carry(ctx, s)
}

// carry carries a decided replacement out and deletes its manifest.
func (b *Base) carry(ctx context.Context, s catalog.Staged) error {
	key := manifestPrefix(b.Catalog.ClusterID()) + s.Name
	manifest := make([]byte, s.Size)
	if _, err := b.Store.GetRange(ctx, key, 0, manifest); err != nil {
		return fmt.Errorf("get manifest %s: %w", s.Name, err)
	}
	if err := b.Writer.Carry(ctx, s, manifest); err != nil {
		return err
	}
	if err := b.Store.Delete(ctx, key); err != nil {
		return fmt.Errorf("delete manifest %s: %w", s.Name, err) // or the sweeper does
	}
	return nil
}

// carryAll carries out what an earlier life, or this one, decided and did not end.
// Nothing else may be done with objects before.
func (b *Base) carryAll(ctx context.Context) error {
	all, err := b.Catalog.AllStaged(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		if !b.keeps(s.Name) {
			continue
		}
		if err := b.carry(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// sweepManifests deletes manifests that nothing was decided by, or all was done of.
func (s *Sweeper) sweepManifests(ctx context.Context) error {
	prefix := manifestPrefix(s.Catalog.ClusterID())
	limit := s.cfg.Now().Add(-s.cfg.Grace)
	var old []string
	err := s.Store.List(ctx, prefix, func(info blob.Info) error {
		name := info.Key[len(prefix):]
		id, err := object.ParseName(name)
		if err != nil || !s.keeps(name) || info.Modified.After(limit) || s.Names.has(name) {
			return nil
		}
		if log := (catalog.LogID{Broker: id.Broker, Epoch: id.Epoch}); log != s.Writer.ID() && !s.Catalog.Sealed(log) {
			return nil
		}
		old = append(old, name)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list manifests: %w", err)
	}
	if len(old) == 0 {
		return nil
	}
	// Its epoch can't decide anything by it any more; what was decided is a key.
	staged, err := s.Catalog.AllStaged(ctx)
	if err != nil {
		return err
	}
	for _, x := range staged {
		for i, name := range old {
			if name == x.Name {
				old[i] = ""
			}
		}
	}
	for _, name := range old {
		if name == "" {
			continue
		}
		if err := s.Store.Delete(ctx, prefix+name); err != nil {
			return fmt.Errorf("delete manifest %s: %w", name, err)
		}
	}
	return nil
}
