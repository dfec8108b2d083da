// Package compat holds the tests with programs that are not ours: Kafka clients
// of other people on the tape, and the loop on a real Apache Kafka. They need
// what test/tools.sh installs, and run with -tags compat.
package compat
