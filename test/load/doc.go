// Package load is the bench: produce throughput and latency side by side with
// Apache Kafka and the limit probe, and OTLP events from the socket to the
// acknowledged append. Run with `make bench`; it prints tables and keeps
// nothing. Absolute figures depend on the machine and its mood: read the ratios
// of one block.
package load
