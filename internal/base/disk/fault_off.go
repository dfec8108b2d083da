//go:build !faultdisk

package disk

// fault is where a build for tests fails; see fault_on.go.
func fault(op string) error { return nil }
