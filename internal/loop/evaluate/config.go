package evaluate

import (
	"errors"
	"fmt"
	"time"
)

// Config are the thresholds and budgets of the built-in evaluators and the
// limits of the runner. The zero value of a field stands for its default.
type Config struct {
	Grounded GroundedConfig
	Citation CitationConfig
	Fresh    FreshConfig
	Refusal  RefusalConfig
	Format   FormatConfig
	SLO      SLOConfig
	Cost     CostConfig

	Mode       string        // live (default), shadow or replay: written into every score
	Quiet      time.Duration // a request without request.closed is settled when nothing came for so long; default 10 s
	Grace      time.Duration // how long a closed request waits for parts that are still on their way before what is missing is taken as missing; default 1 s; negative: not at all
	Idle       time.Duration // a request for which nothing came for so long is folded: only where its parts lie is kept; default 1 h
	Remember   time.Duration // a folded request is forgotten after so long; a part that comes later starts a new one, whose smaller scores do not stand; default 24 h (about 0.5 KB of disk a request)
	MaxOpen    int           // requests with state per partition; the longest idle is settled and folded beyond it; default 20,000
	MaxParts   int           // events of one request; beyond it the request is failed as too large; default 1,000
	MaxBytes   int           // of their bodies together; default 16 MiB
	CacheBytes int           // decoded requests kept in memory per partition; default 8 MiB
}

// GroundedConfig sets the evaluator grounded.
type GroundedConfig struct {
	Pass float64 // support from which an answer passes; default 0.7
}

// CitationConfig sets the evaluator citation.
type CitationConfig struct {
	Required bool // an answer with retrieved documents and no citation fails; by default it is skipped
}

// FreshConfig sets the evaluator retrieval_fresh.
type FreshConfig struct {
	MaxIndexAge    time.Duration // age of the index at the retrieval; default 24 h; negative: not checked
	MaxDocumentAge time.Duration // time since a document changed; default: not checked
}

// RefusalConfig sets the evaluator refusal.
type RefusalConfig struct {
	Phrases []string // more phrases that mean a refusal, matched in lower case at the start of an answer
}

// FormatConfig sets the evaluator format.
type FormatConfig struct {
	Expect string // what answers must be when the request does not say: text (default), markdown or json
}

// SLOConfig sets the evaluator over_slo.
type SLOConfig struct {
	MaxLatency time.Duration // of the whole request; default 10 s
}

// CostConfig sets the evaluator over_cost.
type CostConfig struct {
	MaxUSD    float64 // per request; default 0.10; negative: not checked
	MaxTokens int64   // per request, input and output; default 32,000; negative: not checked
}

// WithDefaults fills what is zero, and reports everything that is wrong at once.
func (c Config) WithDefaults() (Config, error) {
	def(&c.Grounded.Pass, 0.7)
	def(&c.Fresh.MaxIndexAge, 24*time.Hour)
	def(&c.Format.Expect, "text")
	def(&c.SLO.MaxLatency, 10*time.Second)
	def(&c.Cost.MaxUSD, 0.10)
	def(&c.Cost.MaxTokens, 32_000)
	def(&c.Mode, "live")
	def(&c.Quiet, 10*time.Second)
	def(&c.Grace, time.Second)
	def(&c.Idle, time.Hour)
	def(&c.Remember, 24*time.Hour)
	def(&c.MaxOpen, 20_000)
	def(&c.MaxParts, 1_000)
	def(&c.MaxBytes, 16<<20)
	def(&c.CacheBytes, 8<<20)

	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(!(c.Grounded.Pass > 0 && c.Grounded.Pass <= 1), "grounded.pass %v: want a number above 0, at most 1", c.Grounded.Pass)
	bad(c.Fresh.MaxDocumentAge < 0, "fresh.max_document_age %v: want 0 (not checked) or more", c.Fresh.MaxDocumentAge)
	bad(c.Format.Expect != "text" && c.Format.Expect != "markdown" && c.Format.Expect != "json", "format.expect %q: want text, markdown or json", c.Format.Expect)
	bad(c.SLO.MaxLatency < 0, "slo.max_latency %v: want more than 0", c.SLO.MaxLatency)
	bad(c.Mode != "live" && c.Mode != "shadow" && c.Mode != "replay", "mode %q: want live, shadow or replay", c.Mode)
	bad(c.Quiet < 0, "quiet %v: want more than 0", c.Quiet)
	bad(c.Idle < c.Quiet, "idle %v: want at least quiet (%v)", c.Idle, c.Quiet)
	bad(c.Remember < c.Idle, "remember %v: want at least idle (%v)", c.Remember, c.Idle)
	bad(c.MaxOpen < 1 || c.MaxParts < 1 || c.MaxBytes < 1 || c.CacheBytes < 1, "max_open, max_parts, max_bytes, cache_bytes: want at least 1")
	return c, errors.Join(errs...)
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}
