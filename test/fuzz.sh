#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME (default 10s) each.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${FUZZTIME:-10s} n=0
while read -r file; do
  for target in $(grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | sed 's/func //'); do
    echo "fuzz: $(dirname "$file") $target $time"
    go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -parallel 2 >/tmp/fuzz.$$ 2>&1 || { cat /tmp/fuzz.$$; exit 1; }
    n=$((n + 1))
  done
done < <(git ls-files '*_test.go' | xargs grep -lE '^func Fuzz')
rm -f /tmp/fuzz.$$
[ "$n" -gt 0 ] || { echo "no fuzz target found"; exit 1; }
echo "fuzz: $n targets"
