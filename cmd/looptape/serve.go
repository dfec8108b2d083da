package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"github.com/looptape/looptape/internal/app"
)

// serverFlags are shared by serve and demo.
type serverFlags struct {
	Data     string   `help:"Directory of everything that is kept." default:"./looptape-data" env:"LOOPTAPE_DATA" type:"path" placeholder:"DIR"`
	Kafka    string   `help:"Address of the tape's Kafka listener." default:"127.0.0.1:9092" env:"LOOPTAPE_KAFKA" placeholder:"HOST:PORT"`
	Brokers  []string `help:"Run the loop on this Kafka cluster and start no tape." env:"LOOPTAPE_BROKERS" placeholder:"HOST:PORT"`
	HTTP     string   `name:"http" help:"Address of the API and the pages." default:"127.0.0.1:8080" env:"LOOPTAPE_HTTP" placeholder:"HOST:PORT"`
	OTLPHTTP string   `name:"otlp-http" help:"Address of the OTLP/HTTP listener." default:"127.0.0.1:4318" env:"LOOPTAPE_OTLP_HTTP" placeholder:"HOST:PORT"`
	OTLPGRPC string   `name:"otlp-grpc" help:"Address of the OTLP/gRPC listener." default:"127.0.0.1:4317" env:"LOOPTAPE_OTLP_GRPC" placeholder:"HOST:PORT"`
	Blob     string   `help:"URL of the object store, of the tape and of bodies above 256 KiB: s3://bucket/prefix?endpoint=URL or a directory; by default folders under --data." env:"LOOPTAPE_BLOB" placeholder:"URL"`
	LogLevel string   `help:"debug, info, warn or error." default:"${loglevel}" enum:"debug,info,warn,error" env:"LOOPTAPE_LOG_LEVEL"`
}

func (f *serverFlags) config() app.Config {
	return app.Config{
		Data: f.Data, Kafka: f.Kafka, Brokers: f.Brokers, HTTP: f.HTTP, OTLPHTTP: f.OTLPHTTP, OTLPGRPC: f.OTLPGRPC, Blob: f.Blob,
		Version: buildVersion(),
	}
}

func (f *serverFlags) logger(s *streams) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(f.LogLevel)) // the enum lets only levels through
	return slog.New(slog.NewTextHandler(s.err, &slog.HandlerOptions{Level: level}))
}

type serveCmd struct {
	serverFlags
	NoLoop     bool     `name:"no-loop" help:"Run the tape alone: Kafka, and health and metrics over HTTP." env:"LOOPTAPE_NO_LOOP"`
	Meta       string   `help:"Metadata shared by several brokers: etcd://host:port,host:port/prefix. By default a file under --data." env:"LOOPTAPE_META" placeholder:"URL"`
	WAL        string   `name:"wal" help:"Where the log is kept until it is in objects: file (under --data) or object (in --blob). By default file, and object with etcd." env:"LOOPTAPE_WAL" placeholder:"KIND"`
	WALBudget  float64  `name:"wal-budget" help:"Dollars a month for the puts of --wal object, at 5 dollars a million: writes are gathered the longer, the less is left. By default 52.50, one put in 250 ms; below 0 none." env:"LOOPTAPE_WAL_BUDGET" placeholder:"USD"`
	NodeID     int32    `name:"node-id" help:"This broker's number, one of its own for each broker." env:"LOOPTAPE_NODE_ID" placeholder:"N"`
	Advertised string   `help:"Address that clients and other brokers are told; by default the one of --kafka." env:"LOOPTAPE_ADVERTISED" placeholder:"HOST:PORT"`
	Rack       string   `help:"Rack or zone that clients are told." env:"LOOPTAPE_RACK" placeholder:"NAME"`
	Policy     []string `help:"Gate policy file; repeatable. Without one the built-in default applies." type:"existingfile" placeholder:"FILE"`
	Webhook    string   `help:"URL that is told of every decision, signed with LOOPTAPE_WEBHOOK_SECRET." env:"LOOPTAPE_WEBHOOK" placeholder:"URL"`
}

func (serveCmd) Help() string {
	return `Examples:
  looptape serve                                        everything on loopback, data in ./looptape-data
  looptape serve --brokers kafka1:9092,kafka2:9092      the loop on an existing cluster
  looptape serve --policy gates/support.yaml            with a policy of your own
  looptape serve --no-loop --blob s3://tape             the tape alone, its objects in a bucket

Two brokers on one bucket; either takes over when the other dies:
  looptape serve --no-loop --node-id 1 --kafka 10.0.0.1:9092 --blob s3://tape/prod --meta etcd://etcd-1:2379,etcd-2:2379/prod
  looptape serve --no-loop --node-id 2 --kafka 10.0.0.2:9092 --blob s3://tape/prod --meta etcd://etcd-1:2379,etcd-2:2379/prod

Then point an application at it:
  OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318`
}

func (c *serveCmd) Run(ctx context.Context, s *streams) error {
	cfg := c.config()
	cfg.NoLoop = c.NoLoop
	cfg.Tape = app.Tape{Meta: c.Meta, WAL: c.WAL, WALBudget: c.WALBudget, NodeID: c.NodeID, Advertised: c.Advertised, Rack: c.Rack}
	for _, name := range c.Policy {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		cfg.Policies = append(cfg.Policies, app.PolicyFile{Name: name, Text: b})
	}
	if c.Webhook != "" {
		if u, err := url.Parse(c.Webhook); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("--webhook %q: must be a URL like https://host/path", c.Webhook)
		}
	}
	cfg.Webhook, cfg.WebhookSecret = c.Webhook, os.Getenv("LOOPTAPE_WEBHOOK_SECRET")
	a, err := app.Open(ctx, cfg, c.logger(s))
	if err != nil {
		return err
	}
	fmt.Fprint(s.out, listening(a.Addresses()))
	return a.Run(ctx)
}

// listening says where everything is.
func listening(at app.Addresses) string {
	var b strings.Builder
	if at.OTLPHTTP != "" {
		fmt.Fprintf(&b, "pages and API  %s\n", at.HTTP)
		fmt.Fprintf(&b, "OTLP           %s (HTTP), %s (gRPC)\n", at.OTLPHTTP, at.OTLPGRPC)
	} else {
		fmt.Fprintf(&b, "health         %s/readyz\n", at.HTTP)
	}
	fmt.Fprintf(&b, "Kafka          %s\n", strings.Join(at.Kafka, ","))
	return b.String()
}
