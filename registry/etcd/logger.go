package etcd

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLogger returns a zap logger, which etcd wants, that passes what is of a level or worse on to l. onFatal, if not nil,
// is called in place of the end of the process or the panic that a Fatal or Panic entry would cause.
func newLogger(l *slog.Logger, level zapcore.LevelEnabler, onFatal zapcore.CheckWriteHook) *zap.Logger {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	var opts []zap.Option
	if onFatal != nil {
		opts = append(opts, zap.WithFatalHook(onFatal), zap.WithPanicHook(onFatal))
	}
	return zap.New(&core{log: l, LevelEnabler: level}, opts...)
}

// core is a zapcore.Core on slog.
type core struct {
	zapcore.LevelEnabler
	log *slog.Logger
}

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{c.LevelEnabler, c.log.With(attrs(fields)...)}
}

// Check implements zapcore.Core.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !harmless(e.Message) {
		return ce.AddCore(e, c)
	}
	return ce
}

// harmless names what a new member of 3.7 says once, until its first snapshot.
func harmless(msg string) bool {
	return msg == "Failed to detect schema version" || msg == "failed to update storage version"
}

// Write implements zapcore.Core.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, "etcd: "+e.Message, attrs(fields)...)
	return nil
}

// Sync implements zapcore.Core.
func (c *core) Sync() error { return nil }

// attrs leaves out whole requests and responses: they are long, and say no more than the message does.
func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	out := make([]any, 0, len(fields))
	for _, f := range fields {
		f.AddTo(enc)
	}
	for k, v := range enc.Fields {
		if k == "request" || k == "response" {
			continue
		}
		out = append(out, slog.Any(k, v))
	}
	return out
}
