// Package docs embeds the project's pages, so that the demo has a real document
// collection to answer from wherever the binary runs.
package docs

import "embed"

// Pages is every page of this directory, by its path.
//
//go:embed *.md format/*.md adr/*.md
var Pages embed.FS
