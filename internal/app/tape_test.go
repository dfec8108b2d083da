package app

import (
	"math"
	"strings"
	"testing"
)

func TestTapeOptionsThatDoNotGoTogether(t *testing.T) {
	cluster := Tape{Meta: "etcd://a:2379,b:2379/prod", NodeID: 1}
	for name, c := range map[string]struct {
		cfg  Config
		want []string // in the error; none: no error
	}{
		"one process":       {Config{Kafka: "127.0.0.1:9092"}, nil},
		"object log alone":  {Config{Kafka: ":9092", Blob: "s3://b", Tape: Tape{WAL: "object"}}, nil},
		"cluster":           {Config{Kafka: "10.0.0.1:9092", Blob: "s3://b", Tape: cluster}, nil},
		"advertised":        {Config{Kafka: ":9092", Blob: "s3://b", Tape: Tape{Meta: cluster.Meta, NodeID: 1, Advertised: "kafka-1:9092"}}, nil},
		"no bucket":         {Config{Kafka: "10.0.0.1:9092", Tape: cluster}, []string{"--blob"}},
		"no address":        {Config{Kafka: "0.0.0.0:9092", Blob: "s3://b", Tape: cluster}, []string{"--advertised HOST:PORT"}},
		"no address at all": {Config{Kafka: ":9092", Blob: "s3://b", Tape: cluster}, []string{"--advertised HOST:PORT"}},
		"bad advertised":    {Config{Kafka: "1.2.3.4:1", Tape: Tape{Advertised: "kafka"}}, []string{`--advertised "kafka"`}},
		"unknown log":       {Config{Kafka: "1.2.3.4:1", Tape: Tape{WAL: "tape"}}, []string{`--wal "tape"`}},
		"unknown meta":      {Config{Kafka: "1.2.3.4:1", Tape: Tape{Meta: "zk://a:1"}}, []string{"--meta: want etcd://"}},
		"no number":         {Config{Kafka: "1.2.3.4:1", Blob: "s3://b", Tape: Tape{Meta: cluster.Meta}}, []string{"--node-id"}},
		"budget":            {Config{Kafka: "1.2.3.4:1", Tape: Tape{WALBudget: math.NaN()}}, []string{"--wal-budget"}},
		"below 0":           {Config{Kafka: "1.2.3.4:1", Tape: Tape{NodeID: -1}}, []string{"--node-id -1"}},
		"other cluster":     {Config{Brokers: []string{"k:9092"}, NoLoop: true, Tape: Tape{NodeID: 3}}, []string{"--node-id", "--no-loop and --brokers"}},
		"all at once":       {Config{Kafka: ":9092", Tape: Tape{Meta: cluster.Meta, WAL: "x", NodeID: -2}}, []string{"--wal", "--node-id", "--blob", "--advertised"}},
	} {
		err := c.cfg.check()
		if len(c.want) == 0 {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q in it", name, err, w)
			}
		}
	}
}

func TestClaimsAreBesideTheObjects(t *testing.T) {
	for blob, want := range map[string]string{
		"":                                  "data/claims",
		"/var/objects":                      "/var/objects/claims",
		"file:///var/objects":               "file:///var/objects/claims",
		"s3://bucket":                       "s3://bucket/claims",
		"s3://bucket/a?endpoint=http://h:1": "s3://bucket/a/claims?endpoint=http://h:1",
	} {
		got, err := Config{Data: "data", Blob: blob}.claims()
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", blob, got, err, want)
		}
	}
	if _, err := (Config{Blob: "s3://user:secret@%zz"}).claims(); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("bad URL: %v", err)
	}
}
