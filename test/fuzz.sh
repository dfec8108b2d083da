#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME (default 10s) each.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${FUZZTIME:-10s} n=0
out=$(mktemp)
trap 'rm -f "$out"' EXIT
fuzz() { go test "$1" -run '^$' -fuzz "^$2\$" -fuzztime "$time" -parallel 2 >"$out" 2>&1; }
# On a busy machine go test may end a run that found nothing with "context deadline exceeded" (its workers
# were in the middle of an input when the time was up). Only that is tried again, once.
again() {
  grep -q 'context deadline exceeded' "$out" && ! grep -q 'Failing input' "$out" && echo "fuzz: $2 was cut off, again" && fuzz "$@"
}
while read -r file; do
  for target in $(grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | sed 's/func //'); do
    echo "fuzz: $(dirname "$file") $target $time"
    fuzz "./$(dirname "$file")" "$target" || again "./$(dirname "$file")" "$target" || { cat "$out"; exit 1; }
    n=$((n + 1))
  done
done < <(git ls-files '*_test.go' | xargs grep -lE '^func Fuzz')
[ "$n" -gt 0 ] || { echo "no fuzz target found"; exit 1; }
echo "fuzz: $n targets"
