//go:build compat

package compat

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

// TestForeignClients produces and consumes on one tape with every client, so
// that each reads what the others wrote.
func TestForeignClients(t *testing.T) {
	s := rig.Serve(t)
	t.Run("kcat", func(t *testing.T) { kcat(t, s.Kafka) })
	t.Run("librdkafka", func(t *testing.T) { librdkafka(t, s.Kafka) })
	t.Run("java", func(t *testing.T) { java(t, s.Kafka) })
	t.Run("looptape topic", func(t *testing.T) { own(t, s.Kafka) })
	if err := s.Stop(30 * time.Second); err != nil {
		t.Errorf("stop after the clients: %v", err)
	}
}

// numbered is n lines of the form prefix-i.
func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return out
}

// command runs a program to its end with input and returns its standard output.
func command(t *testing.T, stdin []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	if stdin != nil {
		c.Stdin = strings.NewReader(strings.Join(stdin, "\n") + "\n")
	}
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

func lines(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
}

// sameLines wants the lines whatever their order: partitions interleave.
func sameLines(t *testing.T, got string, want []string) {
	t.Helper()
	g, w := slices.Sorted(slices.Values(lines(got))), slices.Sorted(slices.Values(want))
	if !slices.Equal(g, w) {
		t.Errorf("read %d lines, want %d; first difference at %d", len(g), len(w), firstDifference(g, w))
	}
}

func firstDifference(a, b []string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func create(t *testing.T, broker, topic string, partitions int) {
	t.Helper()
	if out, err := rig.Run(t, "topic", "create", topic, "--brokers", broker, "--partitions", fmt.Sprint(partitions)); err != nil {
		t.Fatalf("create %s: %v\n%s", topic, err, out)
	}
}

func kcat(t *testing.T, broker string) {
	bin := rig.Tool(t, "kcat")
	create(t, broker, "compat.kcat", 3)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			want := numbered("kcat-"+codec, 1000)
			command(t, want, bin, "-b", broker, "-P", "-t", "compat.kcat", "-z", codec, "-X", "enable.idempotence=true")
			got := command(t, nil, bin, "-b", broker, "-C", "-t", "compat.kcat", "-e", "-q", "-o", "beginning")
			var mine []string
			for _, l := range lines(got) {
				if strings.HasPrefix(l, "kcat-"+codec+"-") {
					mine = append(mine, l)
				}
			}
			sameLines(t, strings.Join(mine, "\n"), want)
		})
	}
	list := command(t, nil, bin, "-b", broker, "-L", "-J")
	if !strings.Contains(list, `"compat.kcat"`) {
		t.Errorf("kcat -L does not list the topic: %s", list)
	}
}

func librdkafka(t *testing.T, broker string) {
	create(t, broker, "compat.librdkafka", 4)
	out := command(t, nil, rig.Tool(t, "python"), filepath.Join(rig.Root(), "test", "compat", "librdkafka.py"), broker, "compat.librdkafka", "5000")
	if !strings.Contains(out, "ok 5000") {
		t.Errorf("librdkafka client: %s", out)
	}
}

func java(t *testing.T, broker string) {
	cp := rig.Classpath(t, "tools")
	tool := func(stdin []string, class string, args ...string) string {
		t.Helper()
		return command(t, stdin, rig.Tool(t, "java"), append([]string{"-Xmx256m", "-cp", cp, class, "--bootstrap-server", broker}, args...)...)
	}
	const topic = "compat.java"
	tool(nil, "org.apache.kafka.tools.TopicCommand", "--create", "--topic", topic, "--partitions", "3")
	if got := tool(nil, "org.apache.kafka.tools.TopicCommand", "--describe", "--topic", topic); strings.Count(got, "Partition: ") != 3 {
		t.Errorf("describe shows:\n%s", got)
	}
	want := numbered("java", 500)
	tool(want, "org.apache.kafka.tools.ConsoleProducer", "--topic", topic, "--compression-codec", "zstd")
	got := tool(nil, "org.apache.kafka.tools.consumer.ConsoleConsumer", "--topic", topic, "--from-beginning",
		"--group", "compat-java-group", "--max-messages", "500", "--timeout-ms", "60000")
	sameLines(t, got, want)

	groups := tool(nil, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--list")
	if !strings.Contains(groups, "compat-java-group") {
		t.Errorf("the group is not listed: %s", groups)
	}
	described := tool(nil, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--describe", "--group", "compat-java-group")
	var committed, lag int
	for _, l := range lines(described) {
		f := strings.Fields(l)
		if len(f) > 5 && f[0] == "compat-java-group" {
			var c, e, g int
			if _, err := fmt.Sscan(f[3], &c); err == nil {
				fmt.Sscan(f[4], &e)
				fmt.Sscan(f[5], &g)
				committed += c
				lag += g
			}
		}
	}
	if committed != 500 || lag != 0 {
		t.Errorf("the group has committed %d of 500 with a lag of %d:\n%s", committed, lag, described)
	}
	// What a foreign client wrote, another reads.
	sameLines(t, command(t, nil, rig.Tool(t, "kcat"), "-b", broker, "-C", "-t", topic, "-e", "-q", "-o", "beginning"), want)
}

func own(t *testing.T, broker string) {
	out, err := rig.Run(t, "topic", "read", "compat.java", "--brokers", broker, "--values")
	if err != nil {
		t.Fatalf("topic read: %v\n%s", err, out)
	}
	sameLines(t, out, numbered("java", 500))
}
