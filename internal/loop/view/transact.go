package view

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// transact runs fn between BEGIN and COMMIT. When it returns nil everything that
// fn wrote is in the tables, else nothing.
func (v *View) transact(ctx context.Context, fn func() error) (err error) {
	if _, err := v.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if _, e := v.conn.ExecContext(ctx, "ROLLBACK"); e != nil {
			err = errors.Join(err, fmt.Errorf("roll back: %w", e))
		}
	}()
	if err := fn(); err != nil {
		return err
	}
	if _, err := v.conn.ExecContext(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// stmt prepares a statement once for the life of the view.
func (v *View) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if s := v.stmts[query]; s != nil {
		return s, nil
	}
	s, err := v.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	v.stmts[query] = s
	return s, nil
}
