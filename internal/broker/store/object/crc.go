package object

import "math/bits"

// combineCRC returns the CRC32C of a followed by b from the CRCs of both and the
// length of b. Appending zero bits to a message is a linear map of its CRC over
// GF(2): polynomials modulo the CRC's, multiplied by a power of x.
func combineCRC(a, b uint32, lenB int64) uint32 {
	return multiply(a, power(uint64(lenB)*8)) ^ b
}

// reflected is the polynomial of CRC32C with the highest power in the lowest bit.
const reflected = 0x82f63b78

// multiply multiplies two polynomials modulo the CRC's. Bit 31 is x^0.
func multiply(a, b uint32) uint32 {
	var product uint32
	for ; a != 0; a <<= 1 {
		if a&(1<<31) != 0 {
			product ^= b
		}
		low := b & 1
		b >>= 1
		if low != 0 {
			b ^= reflected
		}
	}
	return product
}

// squares[i] is x^(2^i).
var squares = func() (s [64]uint32) {
	s[0] = 1 << 30 // x
	for i := 1; i < len(s); i++ {
		s[i] = multiply(s[i-1], s[i-1])
	}
	return s
}()

// power returns x^n.
func power(n uint64) uint32 {
	p := uint32(1 << 31)
	for ; n != 0; n &= n - 1 {
		p = multiply(p, squares[bits.TrailingZeros64(n)])
	}
	return p
}
