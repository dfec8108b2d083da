//go:build faultdisk

package disk

import (
	"os"
	"strings"
	"syscall"
)

// fault makes the disk fail as the file says that LOOPTAPE_FAULTDISK names, for
// tests of a whole process: "sync" fails every Datasync, "full" every write and
// every new file. No other build has this.
func fault(op string) error {
	b, err := os.ReadFile(os.Getenv("LOOPTAPE_FAULTDISK"))
	if err != nil {
		return nil
	}
	switch how := strings.TrimSpace(string(b)); {
	case how == "sync" && op == "fdatasync":
		return syscall.EIO
	case how == "full" && (op == "write" || op == "create"):
		return syscall.ENOSPC
	}
	return nil
}
