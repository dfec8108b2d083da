// Package looptape holds the rules of the repository as tests.
package looptape

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/looptape/looptape/"

// law says what a package may import of this module, itself and the packages
// below it included; see ARCHITECTURE.md. A package is found by its longest
// prefix here. "run" is internal/base/run, which any package that is not pure
// may import.
var law = map[string][]string{
	"internal/base/run":    {},
	"internal/base/disk":   {"run"},
	"internal/base/blob":   {"internal/base/disk", "run"},
	"internal/base/meta":   {"internal/base/disk", "run"},
	"internal/base/pages":  {},
	"internal/base/crc32c": {},

	"internal/broker/batch":         {"internal/base/crc32c"},
	"internal/broker/store/object":  {"internal/broker/batch", "internal/base/crc32c"},
	"internal/broker/store/wal":     {"internal/base/crc32c", "internal/base/pages", "internal/base/disk", "internal/base/blob", "run"},
	"internal/broker/store/catalog": {"internal/base/meta", "run"},
	"internal/broker/store/write":   {"internal/broker/batch", "internal/broker/store/object", "internal/broker/store/wal", "internal/broker/store/catalog", "internal/base/blob", "internal/base/meta", "run"},
	"internal/broker/store/read":    {"internal/base/pages", "internal/broker/batch", "internal/broker/store/object", "internal/broker/store/catalog", "internal/base/blob", "internal/base/meta", "run"},
	"internal/broker/store/inspect": {"internal/broker/batch", "internal/broker/store/object", "internal/broker/store/catalog", "internal/broker/store/read", "internal/broker/store/wal", "internal/base/blob", "internal/base/meta", "internal/base/disk", "run"},
	"internal/broker/partition":     {"internal/base/pages", "internal/broker/batch", "internal/broker/store/wal", "internal/broker/store/read", "internal/broker/store/catalog", "run"},
	"internal/broker/cluster":       {"internal/broker/store/catalog", "internal/base/meta", "run"},
	"internal/broker/front/auth":    {"internal/broker/store/catalog", "run"},
	"internal/broker/front/wire":    {"run"},
	"internal/broker/front/coord":   {"internal/broker/batch", "internal/broker/partition", "internal/broker/store/catalog", "run"},
	"internal/broker/front/api":     {"internal/broker/front/wire", "internal/broker/front/auth", "internal/broker/front/coord", "internal/broker/partition", "internal/broker/store/catalog", "internal/broker/batch"},
	"internal/broker":               {"internal/broker", "internal/base"}, // builds the broker from its parts

	"contract":               {},
	"internal/loop/event":    {},
	"internal/loop/measure":  {},
	"internal/loop/stream":   {"internal/loop/event", "run"},
	"internal/loop/govern":   {"internal/loop/event", "internal/loop/stream", "internal/loop/measure", "run"},
	"internal/loop/collect":  {"contract", "internal/loop/event", "internal/loop/stream", "internal/loop/govern", "run"},
	"internal/loop/evaluate": {"internal/loop/event", "internal/loop/stream", "internal/loop/govern", "internal/loop/measure", "run"},
	"internal/loop/join":     {"internal/loop/event", "internal/loop/stream", "internal/loop/govern", "run"},
	"internal/loop/view":     {"internal/loop/event", "internal/loop/stream", "internal/loop/govern", "run"},
	"internal/loop/gate":     {"internal/loop/event", "internal/loop/stream", "internal/loop/govern", "internal/loop/measure", "run"},

	"docs":          {},
	"internal/demo": {"run"}, // an application: it knows Looptape by its ports only
	"internal/web":  {"internal/loop/event", "internal/loop/stream", "internal/loop/view", "internal/loop/gate", "internal/loop/govern", "run"},
	"internal/app":  {"internal", "contract", "docs"},
	"cmd/looptape":  {"internal/app", "internal/demo", "docs", "internal/base", "internal/broker/store/inspect", "internal/broker/store/catalog", "internal/loop/gate", "internal/loop/event"},
	"test":          {"internal", "test", "contract", "cmd"},
}

// pure packages import nothing that does I/O, reads a clock or logs.
var pure = []string{"internal/broker/batch", "internal/broker/store/object", "internal/loop/event", "internal/loop/measure"}

var impure = []string{"os", "net", "net/http", "log", "log/slog", "sync", "context", "math/rand", "math/rand/v2", "database/sql"}

// TestImportLaw holds the arrows of ARCHITECTURE.md: broker and loop never meet,
// and a package imports only packages on lower floors.
func TestImportLaw(t *testing.T) {
	seen := 0
	eachGoFile(t, func(file, pkg string, imports []string) {
		rule := longest(pkg)
		if rule == "" {
			t.Errorf("%s: package %s has no rule: give it one in imports_test.go and a place on the map in ARCHITECTURE.md", file, pkg)
			return
		}
		seen++
		for _, imp := range imports {
			if slices.Contains(pure, pkg) && slices.Contains(impure, imp) {
				t.Errorf("%s: %s is pure and must not import %s", file, pkg, imp)
			}
			own, ok := strings.CutPrefix(imp, module)
			if !ok {
				continue
			}
			if !allowed(rule, own) {
				t.Errorf("%s: %s must not import %s: declare a small interface where it is needed and connect it in internal/app", file, pkg, own)
			}
		}
	})
	if seen < 20 {
		t.Errorf("looked at %d files only: the walk does not see the tree", seen)
	}
}

func allowed(rule, imp string) bool {
	if within(imp, rule) {
		return true
	}
	for _, a := range law[rule] {
		if a == "run" {
			a = "internal/base/run"
		}
		if within(imp, a) {
			return true
		}
	}
	return false
}

func within(pkg, root string) bool { return pkg == root || strings.HasPrefix(pkg, root+"/") }

func longest(pkg string) string {
	best := ""
	for _, k := range slices.Sorted(maps.Keys(law)) {
		if within(pkg, k) && len(k) > len(best) {
			best = k
		}
	}
	return best
}

// eachGoFile calls fn for every Go file that is no test, with its package's
// directory and its imports.
func eachGoFile(t *testing.T, fn func(file, pkg string, imports []string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "looptape-data" || name != "." && strings.HasPrefix(d.Name(), ".")) {
			return fs.SkipDir
		}
		if d.IsDir() || path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range f.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			imports = append(imports, p)
		}
		fn(name, filepath.ToSlash(filepath.Dir(name)), imports)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPackagesAreDocumented wants every package to say what it is.
func TestPackagesAreDocumented(t *testing.T) {
	documented := map[string]bool{}
	eachGoFile(t, func(file, pkg string, _ []string) {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		documented[pkg] = documented[pkg] || f.Doc != nil && len(f.Doc.Text()) > 40
	})
	for _, pkg := range slices.Sorted(maps.Keys(documented)) {
		if !documented[pkg] {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}
