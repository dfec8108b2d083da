// Package sim runs the whole storage engine in one process, in virtual time, on a
// disk, an object store and a metadata store that fail, and holds what it does
// against a model.
package sim
