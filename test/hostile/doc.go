// Package hostile throws bad input at the running program: broken, lying and
// endless bodies, headers, frames and connections, on every port and on the
// command line. Each attack must get a clear answer or a clean close. After each
// one the same process must still be alive and ready, well-behaved clients that
// work in the background all the while must have noticed nothing and lost
// nothing, and the collect counters must add up. Run with -tags e2e.
package hostile
