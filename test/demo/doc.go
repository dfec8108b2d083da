// Package demo runs the demo as a user does and wants what the README promises.
// Run with -tags demo.
package demo
