package blobdir

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/disk"
)

// View opens the store in the directory root for reading, beside whatever process
// has it open: nothing is created and nothing swept. Put and Delete are refused.
// fs.ErrNotExist: there is no such directory.
func View(root string) (blob.Store, error) {
	info, err := os.Stat(root)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("not a directory")
	}
	if err != nil {
		return nil, fmt.Errorf("open object store %s: %w", root, err)
	}
	return blob.ReadOnly(&Store{fs: disk.OS{}, root: filepath.Clean(root), load: newLoader(disk.OS{})}), nil
}
