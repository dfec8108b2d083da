package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the release build; otherwise the build's commit is shown.
var version = ""

type versionCmd struct{}

func (versionCmd) Run(s *streams) error {
	fmt.Fprintf(s.out, "looptape %s %s %s/%s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	rev, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			rev = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if rev == "" {
		return "development"
	}
	return rev + dirty
}
