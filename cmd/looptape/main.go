// Looptape is the event loop for LLM quality: a Kafka-compatible log and the
// control loop over it, in one program. See looptape --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli is the command line: one field per subcommand, in the order of help.
type cli struct {
	Demo    demoCmd    `cmd:"" help:"Run the server and a small LLM application beside it, and watch a bad release being rolled back."`
	Serve   serveCmd   `cmd:"" help:"Run the server: the tape (Kafka), OTLP intake, evaluation, gates, API and pages."`
	Send    sendCmd    `cmd:"" help:"Send recorded telemetry, events or feedback to a running server."`
	Topic   topicCmd   `cmd:"" help:"List, describe, create and read topics of the tape or of any Kafka cluster."`
	Storage storageCmd `cmd:"" help:"Look into the store: sizes and costs, objects, checksums, and what it stands on."`
	Release releaseCmd `cmd:"" help:"Register a release; start, move and finish its deployment."`
	Gate    gateCmd    `cmd:"" help:"Show a release's gate, check a policy file, simulate false alarms."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

const description = `The event loop for LLM quality: a Kafka-compatible log on object storage that keeps every prompt, retrieval, output, score and piece of feedback, evaluates them as they arrive, and says while it is still reversible that a release got worse.

Examples:
  looptape demo                                  see it work, in one process
  looptape serve --data ./looptape-data          run it for real
  looptape send traces.jsonl.gz                  send recorded OTLP
  looptape gate show my-release                  what the gate says`

// exitError ends the program with a code and without a further message.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit %d", e.code) }

func main() {
	os.Exit(command(os.Args[1:], os.Stdout, os.Stderr))
}

// command is main with its surroundings as arguments.
func command(args []string, stdout, stderr io.Writer) int {
	// The first signal asks everything to end in order; after it a second one kills.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	code := -1
	parser, err := kong.New(&cli{},
		kong.Name("looptape"), kong.Description(description), kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.Writers(stdout, stderr), kong.Exit(func(c int) { code = c }), kong.Vars{"loglevel": "warn"},
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(&streams{stdout, stderr}),
	)
	if err != nil {
		fmt.Fprintln(stderr, "looptape:", err)
		return 1
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if code >= 0 { // --help
		return code
	}
	if err != nil {
		var pe *kong.ParseError
		if errors.As(err, &pe) {
			_ = pe.Context.PrintUsage(true)
		}
		fmt.Fprintln(stderr, "looptape:", err)
		return 2
	}
	if err := parsed.Run(); err != nil {
		var exit exitError
		if errors.As(err, &exit) {
			return exit.code
		}
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return 130
		}
		fmt.Fprintln(stderr, "looptape:", err)
		return 1
	}
	return 0
}

// streams are where a command writes.
type streams struct{ out, err io.Writer }
