// Package idle holds a quiet broker to its price: nothing asked of the object store
// that costs money, little memory, next to no CPU. Run with `make idle`, and for ten
// minutes instead of one with LOOPTAPE_IDLE=10m.
package idle
