#!/usr/bin/env bash
# Installs what the foreign-client, browser and bench suites need beside Go and Node, by package name.
# Versions of Apache Kafka are pinned in test/compat/java/pom.xml, all others here.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$PWD/.cache
mkdir -p "$cache/kafka"

debian=(kcat chromium python3-venv maven gcc libc6-dev)
command -v java >/dev/null || debian+=(default-jre-headless)
command -v mvn >/dev/null && debian=("${debian[@]/maven/}")
missing=()
for p in "${debian[@]}"; do
  [ -n "$p" ] && ! dpkg -s "$p" >/dev/null 2>&1 && missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "tools: Debian packages ${missing[*]}"
  sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends "${missing[@]}" >"$cache/apt.log" 2>&1 || { tail -20 "$cache/apt.log"; exit 1; }
fi

pom=test/compat/java/pom.xml
for profile in broker tools; do
  if [ ! -s "$cache/kafka/$profile.classpath" ] || [ "$pom" -nt "$cache/kafka/$profile.classpath" ]; then
    echo "tools: Apache Kafka $profile"
    mvn -q -B -f "$pom" -P "$profile" dependency:build-classpath -Dmdep.outputFile="$cache/kafka/$profile.classpath"
  fi
done

librdkafka_client=confluent-kafka==2.16.1
if ! "$cache/python/bin/python" -c 'import confluent_kafka' 2>/dev/null; then
  echo "tools: $librdkafka_client"
  python3 -m venv "$cache/python"
  "$cache/python/bin/pip" install -q --disable-pip-version-check "$librdkafka_client"
fi

if [ -f test/browser/package-lock.json ] && [ ! test/browser/node_modules/.package-lock.json -nt test/browser/package-lock.json ]; then
  echo "tools: browser driver"
  (cd test/browser && npm ci --no-audit --no-fund --silent && touch node_modules/.package-lock.json)
fi

# The S3 server and the etcd of the tests, pinned in test/servers/go.mod.
mkdir -p "$cache/bin"
build() { # binary, package
  if [ ! -x "$cache/bin/$1" ] || [ test/servers/go.sum -nt "$cache/bin/$1" ]; then
    echo "tools: $1"
    (cd test/servers && CGO_ENABLED=0 go build -o "$cache/bin/$1" "$2")
  fi
}
build versitygw github.com/versity/versitygw/cmd/versitygw
build etcd go.etcd.io/etcd/server/v3
