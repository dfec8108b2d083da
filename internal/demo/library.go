package demo

import (
	"fmt"
	"hash/fnv"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
)

// A section is one heading of a document with the text under it: the unit of
// retrieval.
type section struct {
	id    string // "format/wal#commit-blocks"
	title string // the heading
	doc   string // title of the document
	text  string
}

// A library is a collection of sections with a BM25 index over them.
type library struct {
	version  string // of the index
	built    time.Time
	sections []section
	terms    map[string][]posting
	length   []float64
	mean     float64
}

type posting struct {
	section int
	count   float64
}

// A hit is one retrieved section.
type hit struct {
	section
	score float64
}

// readSections cuts every Markdown file of a tree into its sections.
func readSections(tree fs.FS) ([]section, error) {
	var all []section
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".md" {
			return err
		}
		b, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		all = append(all, cut(strings.TrimSuffix(name, ".md"), string(b))...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the document collection: %w", err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("read the document collection: it holds no Markdown section")
	}
	return all, nil
}

func cut(name, text string) []section {
	var out []section
	doc, title := name, ""
	var body []string
	code := false
	flush := func() {
		t := strings.TrimSpace(strings.Join(body, "\n"))
		body = nil
		if title != "" && len(words(t)) >= 12 {
			out = append(out, section{id: name + "#" + slug(title), title: title, doc: doc, text: t})
		}
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "```") {
			code = !code
			continue
		}
		if code || strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "|") {
			continue // drawings and tables do not read as sentences
		}
		if h := strings.TrimLeft(line, "#"); h != line && strings.HasPrefix(h, " ") {
			flush()
			title = strings.TrimSpace(h)
			if strings.HasPrefix(line, "# ") {
				doc = title
			}
			continue
		}
		body = append(body, line)
	}
	flush()
	return out
}

func slug(s string) string {
	return strings.Join(words(s), "-")
}

func words(s string) []string {
	return strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}

// index builds a library from sections.
func index(version string, built time.Time, sections []section) *library {
	l := &library{version: version, built: built, sections: sections, terms: map[string][]posting{}}
	for i, s := range sections {
		counts := map[string]float64{}
		for _, w := range words(s.doc + " " + s.title + " " + s.title + " " + s.text) {
			counts[stem(w)]++
		}
		var n float64
		for w, c := range counts {
			l.terms[w] = append(l.terms[w], posting{i, c})
			n += c
		}
		l.length = append(l.length, n)
		l.mean += n
	}
	l.mean /= float64(len(sections))
	return l
}

// asOf is what the collection looked like at an earlier time: the sections that
// had been written by then. An index built from it is a stale one.
func asOf(sections []section, share float64) []section {
	var out []section
	for _, s := range sections {
		h := fnv.New32a()
		h.Write([]byte(s.id))
		if float64(h.Sum32())/math.MaxUint32 < share {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		out = sections[:1]
	}
	return out
}

// stem cuts the commonest English endings, so that "commits" finds "commit".
func stem(w string) string {
	for _, end := range []string{"ing", "ed", "es", "s"} {
		if len(w) > len(end)+3 && strings.HasSuffix(w, end) {
			return strings.TrimSuffix(w, end)
		}
	}
	return w
}

// search returns the k best sections for a query by BM25 (k1 = 1.2, b = 0.75).
func (l *library) search(query string, k int) []hit {
	scores := map[int]float64{}
	n := float64(len(l.sections))
	for _, w := range content(query) {
		ps := l.terms[w]
		idf := math.Log(1 + (n-float64(len(ps))+0.5)/(float64(len(ps))+0.5))
		for _, p := range ps {
			scores[p.section] += idf * p.count * 2.2 / (p.count + 1.2*(0.25+0.75*l.length[p.section]/l.mean))
		}
	}
	hits := make([]hit, 0, len(scores))
	for i, s := range scores {
		hits = append(hits, hit{l.sections[i], s})
	}
	slices.SortFunc(hits, func(a, b hit) int {
		if a.score != b.score {
			if a.score > b.score {
				return -1
			}
			return 1
		}
		return strings.Compare(a.id, b.id)
	})
	return hits[:min(k, len(hits))]
}

var stop = strings.Fields("a an and are as at be by do does for from how in is it its of on or said say tell that the this to what when where which who why with about me you looptape")

// content is the query's stemmed words without those that say nothing.
func content(s string) []string {
	var out []string
	for _, w := range words(s) {
		if !slices.Contains(stop, w) {
			out = append(out, stem(w))
		}
	}
	return out
}
