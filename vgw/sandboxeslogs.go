package vgw

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// logChunk is how much of a log is passed on at a time.
const logChunk = 32 << 10

// logQuery reads the query of logs.
func logQuery(raw string, now time.Time) (q sandbox.LogQuery, err error) {
	v, err := queryOf(raw, "follow", "since", "tail", "timestamps", "limit_bytes")
	if err != nil {
		return q, err
	}
	q.Tail = -1
	if q.Follow, err = flagOf(v, "follow"); err != nil {
		return q, err
	}
	if q.Timestamps, err = flagOf(v, "timestamps"); err != nil {
		return q, err
	}
	if v.Has("tail") {
		if q.Tail, err = strconv.ParseInt(v.Get("tail"), 10, 64); err != nil || q.Tail < 0 {
			return q, fault.New(fault.Invalid, "tail must be a number of lines, 0 or more")
		}
	}
	if v.Has("limit_bytes") {
		if q.Limit, err = strconv.ParseInt(v.Get("limit_bytes"), 10, 64); err != nil || q.Limit < 1 {
			return q, fault.New(fault.Invalid, "limit_bytes must be a number of bytes, 1 or more")
		}
	}
	if v.Has("since") {
		q.Since, err = sinceOf(v.Get("since"), now)
	}
	return q, err
}

func sinceOf(text string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return time.Time{}, fault.New(fault.Invalid, "since must be a time such as 2026-01-31T15:04:05Z, or a duration such as 10m")
	}
	return now.Add(-d), nil
}

func sandboxLogs(_ context.Context, c *call) (exchange.Decision, error) {
	q, err := logQuery(c.r.Query, c.now())
	if err != nil {
		return nil, err
	}
	a, permit, err := c.aimed(authz.SandboxLogs, "")
	if err != nil {
		return nil, err
	}
	return &exchange.Serve{Handle: func(ctx context.Context, out exchange.Stream) (err error) {
		defer func() { permit.Done(err) }()
		ctx, release, err := c.whileMay(ctx, authz.SandboxLogs, a.object)
		if err != nil {
			return err
		}
		defer release()
		src, err := a.all.Logs(ctx, a.it.ID, q)
		if err != nil {
			return endOf(ctx, err)
		}
		defer context.AfterFunc(ctx, func() { _ = src.Close() })() // a reader that waits for more
		defer src.Close()
		h := exchange.Header{}
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		out.Start(200, h)
		return endOf(ctx, pour(out, src))
	}}, nil
}

// pour passes a log on to its end.
func pour(out io.Writer, src io.Reader) error {
	buf := make([]byte, logChunk)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := out.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
