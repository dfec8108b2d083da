// Package crash kills the real process on a real disk, again and again, and
// then reads everything back. Run with -tags crash; LOOPTAPE_ROUNDS and
// LOOPTAPE_SEED change the number of rounds and the moments.
package crash
