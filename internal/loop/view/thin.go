package view

import "context"

// thinEvidence keeps the series of a long gate bounded: every second point goes,
// then every second of those left, and so on. The newest point of a gate and the
// points that decisions were taken on stay.
func (v *View) thinEvidence(ctx context.Context, remove func(table, where string, args ...any) error) error {
	rows, err := v.conn.QueryContext(ctx, `SELECT tenant, release, process, max(seq) FROM evidence
		GROUP BY tenant, release, process HAVING count(*) > ?`, v.cfg.Keep.Evidence)
	if err != nil {
		return err
	}
	type gate struct {
		tenant, release, process string
		last                     int64
	}
	var gates []gate
	for rows.Next() {
		var g gate
		if err := rows.Scan(&g.tenant, &g.release, &g.process, &g.last); err != nil {
			rows.Close()
			return err
		}
		gates = append(gates, g)
	}
	if err := rows.Close(); err != nil {
		return err
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, g := range gates {
		stride := int64(1)
		for g.last/stride > int64(v.cfg.Keep.Evidence) {
			stride *= 2
		}
		if err := remove("evidence", `tenant = ? AND release = ? AND process = ? AND seq % ? != 0 AND seq != ?
			AND id NOT IN (SELECT json_extract(doc, '$.evidence') FROM decisions d WHERE d.tenant = evidence.tenant AND d.release = evidence.release)`,
			g.tenant, g.release, g.process, stride, g.last); err != nil {
			return err
		}
	}
	return nil
}
