// Package crc32c is the checksum of every format here, CRC-32C (Castagnoli), with
// what hash/crc32 lacks: the checksum of two pieces of bytes one after the other,
// from their two checksums. Bytes whose checksum is known need not be read again.
package crc32c

import "hash/crc32"

var table = crc32.MakeTable(crc32.Castagnoli)

// Sum is the checksum of b.
func Sum(b []byte) uint32 { return crc32.Checksum(b, table) }

// Update is the checksum of what crc stands for and b after it.
func Update(crc uint32, b []byte) uint32 { return crc32.Update(crc, table, b) }

// Concat is the checksum of what a stands for and, after it, the n bytes that b
// stands for. It costs about as much as the checksum of 8 KiB, whatever n.
func Concat(a, b uint32, n int64) uint32 { return times(a, shift(n)) ^ b }

// A checksum is a polynomial over GF(2) modulo the generator; bit 31 is the
// coefficient of x^0. To append a byte multiplies it by x^8.

// times multiplies two polynomials.
func times(a, b uint32) uint32 {
	p := uint32(0)
	for ; a != 0; a <<= 1 {
		p ^= b & -(a >> 31) // without branches: nobody could predict them
		b = b>>1 ^ crc32.Castagnoli&-(b&1)
	}
	return p
}

// squares[k] is x^(8 << k): k doublings of a byte.
var squares = func() (all [60]uint32) {
	x := uint32(1) << (31 - 8)
	for k := range all {
		all[k] = x
		x = times(x, x)
	}
	return all
}()

// shift is x^(8n).
func shift(n int64) uint32 {
	p := uint32(1) << 31
	for k := 0; n > 0; n, k = n>>1, k+1 {
		if n&1 != 0 {
			p = times(squares[k], p)
		}
	}
	return p
}
