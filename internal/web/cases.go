package web

import (
	"errors"
	"fmt"

	"github.com/looptape/looptape/internal/loop/view"
)

// listCases answers GET /v1/cases.
func (s *Server) listCases(q *query) (any, error) {
	f, parts, err := s.filter(q)
	if err != nil {
		return nil, err
	}
	page, err := s.cfg.View.Cases(q.ctx, q.tenant, f)
	if err != nil {
		return nil, err
	}
	if !parts {
		for i := range page.Cases {
			page.Cases[i].Parts = nil
		}
	}
	return page, nil
}

func (s *Server) filter(q *query) (f view.Filter, parts bool, err error) {
	var errs []error
	text := func(name string, to *string) {
		v, err := q.text(name)
		*to, errs = v, append(errs, err)
	}
	number := func(name string, to **float64) {
		v, err := q.number(name)
		*to, errs = v, append(errs, err)
	}
	text("release", &f.Release)
	text("arm", &f.Arm)
	text("session", &f.Session)
	text("app", &f.App)
	text("prefix", &f.Prefix)
	text("label", &f.Label)
	text("metric", &f.Metric)
	text("cursor", &f.Cursor)
	number("max", &f.Max)
	number("min", &f.Min)
	number("feedback_max", &f.FeedbackMax)
	number("feedback_min", &f.FeedbackMin)
	if f.Failed, err = q.truth("failed"); err != nil {
		errs = append(errs, err)
	}
	now := s.cfg.Now()
	if f.Since, err = q.when("since", now); err != nil {
		errs = append(errs, err)
	}
	if f.Until, err = q.when("until", now); err != nil {
		errs = append(errs, err)
	}
	if f.Limit, err = q.whole("limit", 50, view.MaxPage); err != nil {
		errs = append(errs, err)
	}
	with, err := q.truth("parts")
	if err != nil {
		errs = append(errs, err)
	}
	sort, err := q.text("sort")
	errs = append(errs, err)
	switch sort {
	case "", "newest":
	case "worst":
		f.Worst = true
		if f.Metric == "" {
			errs = append(errs, badRequest("sort=worst needs a metric, as in metric=grounded"))
		}
	default:
		errs = append(errs, badRequest("parameter sort must be newest or worst"))
	}
	if f.Metric == "" && (f.Max != nil || f.Min != nil) {
		errs = append(errs, badRequest("max and min need a metric, as in metric=grounded"))
	}
	errs = append(errs, q.done())
	for _, err := range errs {
		if err != nil {
			return f, false, err
		}
	}
	return f, with != nil && *with, nil
}

// openCase answers GET /v1/cases/{request}.
func (s *Server) openCase(q *query) (any, error) {
	id, err := q.path("request")
	if err != nil {
		return nil, err
	}
	if err := q.done(); err != nil {
		return nil, err
	}
	row, err := s.cfg.View.Case(q.ctx, q.tenant, id)
	if errors.Is(err, view.ErrNotFound) {
		n, err := s.cfg.View.Pending(q.ctx, q.tenant, id)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			return nil, notFound("case_pending", fmt.Sprintf("%d events of this request have come and are not joined yet: ask again in a moment", n))
		}
		return nil, notFound("case_not_found", "no case has this request id, trace id or alias; it may not have arrived, or its retention has ended")
	}
	if err != nil {
		return nil, err
	}
	return s.open(q, row)
}
