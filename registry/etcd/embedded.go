package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Defaults of the embedded server.
const (
	DefaultQuota     = 2 << 30
	DefaultRetention = 10 * time.Minute
	startTimeout     = 30 * time.Second // after a crash the log is read first
	memberName       = "polygate"
	maxTxnOps        = 1024
	slowRequest      = 500 * time.Millisecond // etcd warns of requests that take longer
)

// EmbeddedConfig says how to run etcd in this process.
type EmbeddedConfig struct {
	Dir       string        // data folder, made if absent with mode 0700; required
	Quota     int64         // bytes of the database; 0 = DefaultQuota
	Retention time.Duration // how long history is kept for watches that fall behind; 0 = DefaultRetention
	Socket    string        // path of a unix socket on which etcd serves clients too, such as etcdctl; empty = none
	Logger    *slog.Logger  // gets etcd's warnings and errors; nil = discard

	Cluster *ClusterConfig // nil = the only member
}

// Embedded is an etcd server in this process. It listens on nothing for clients, unless Socket is set: requests are
// function calls, so nothing that a tenant runs can reach it (etcd trusts every client). As a member of a cluster it
// listens for the other members.
type Embedded struct {
	etcd    *embed.Etcd
	level   zap.AtomicLevel // of what etcd logs: little while it starts and stops, which it does with much ado
	cluster *ClusterConfig  // nil = the only member
	probe   *probe          // of the other members; nil without a cluster
}

// StartEmbedded starts the server and waits until it serves. The errors say in one line what to do. Whoever calls it
// holds a lock on the folder, so that no second process comes this far.
func StartEmbedded(ctx context.Context, cfg EmbeddedConfig) (*Embedded, error) {
	if err := checkDir(cfg.Dir); err != nil {
		return nil, err
	}
	if err := checkDatabase(filepath.Join(cfg.Dir, "member", "snap", "db"), cfg.Dir); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	fatal := &fatalHook{said: make(chan string, 1)}
	e := &Embedded{level: zap.NewAtomicLevelAt(zap.ErrorLevel), cluster: cfg.Cluster}
	ecfg, err := cfg.embed(newLogger(cfg.Logger, e.level, fatal))
	if err != nil {
		return nil, err
	}
	if err := e.enter(ctx, cfg, ecfg); err != nil {
		return nil, err
	}
	return e.start(ctx, cfg, ecfg, fatal)
}

// enter makes the server a member of its cluster, if it is to be one.
func (e *Embedded) enter(ctx context.Context, cfg EmbeddedConfig, ecfg *embed.Config) error {
	if err := checkKind(cfg.Dir, cfg.Cluster); err != nil || cfg.Cluster == nil {
		return err
	}
	if err := cfg.Cluster.check(); err != nil {
		return err
	}
	var err error
	if e.probe, err = newProbe(cfg.Cluster); err != nil {
		return err
	}
	existing := false
	if !hasData(cfg.Dir) {
		if existing, err = cfg.Cluster.join(ctx, cfg.Dir, e.probe, cfg.Logger); err != nil {
			return err
		}
	}
	cfg.Cluster.apply(ecfg, existing)
	return cfg.Cluster.mark(cfg.Dir)
}

// start runs the server that is configured.
func (e *Embedded) start(ctx context.Context, cfg EmbeddedConfig, ecfg *embed.Config, fatal *fatalHook) (*Embedded, error) {
	type started struct {
		etcd *embed.Etcd
		err  error
	}
	done := make(chan started, 1)
	go func() { // of its own, since a fatal error of etcd's ends the goroutine; it would end the process otherwise
		defer fatal.recover() // bootstrap panics of some logs that it cannot read
		server, err := embed.StartEtcd(ecfg)
		done <- started{server, err}
	}()
	ctx, cancel := cfg.bounded(ctx)
	defer cancel()
	select {
	case s := <-done:
		if s.err != nil {
			return nil, fmt.Errorf("start the embedded etcd in %s: %w", cfg.Dir, s.err)
		}
		e.etcd = s.etcd
		return e.awaitReady(ctx, cfg.Dir, fatal)
	case why := <-fatal.said:
		return nil, corrupt(cfg.Dir, why)
	case <-ctx.Done():
		go func() { // it cannot be stopped before it has started
			if s := <-done; s.etcd != nil {
				e.end(s.etcd)
			}
		}()
		return nil, fmt.Errorf("start the embedded etcd in %s: %w", cfg.Dir, ctx.Err())
	}
}

// bounded bounds how long a server may take to be ready. A member of a cluster waits for a majority of them.
func (cfg EmbeddedConfig) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if cfg.Cluster == nil {
		return context.WithTimeout(ctx, startTimeout)
	}
	return cfg.Cluster.bounded(ctx)
}

func (e *Embedded) awaitReady(ctx context.Context, dir string, fatal *fatalHook) (*Embedded, error) {
	select {
	case <-e.etcd.Server.ReadyNotify():
		fatal.running.Store(true)
		e.level.SetLevel(zap.WarnLevel)
		return e, nil
	case why := <-fatal.said:
		return nil, corrupt(dir, why)
	case <-e.etcd.Server.StopNotify():
		if e.cluster != nil {
			return nil, fmt.Errorf("the embedded etcd in %s stopped while it started: if this member was removed from the cluster, move the folder away, run `polygate etcd member add %s` at another replica, and start again", dir, e.cluster.self().Address)
		}
		return nil, fmt.Errorf("the embedded etcd in %s stopped while it started", dir)
	case <-ctx.Done():
		e.end(e.etcd)
		if e.cluster != nil {
			return nil, fmt.Errorf("the embedded etcd in %s does not get ready: more than half of the members must run and reach each other: %s", dir, names(e.cluster.Members))
		}
		return nil, fmt.Errorf("the embedded etcd in %s does not get ready: %w", dir, ctx.Err())
	}
}

func corrupt(dir, why string) error {
	return fmt.Errorf("the etcd data in %s cannot be read (%s): restore the folder from a backup, or move it away to begin anew", dir, why)
}

// Backend returns the server's registry.Backend under a root; empty = DefaultRoot. Close it before the server.
func (e *Embedded) Backend(root string) (*Backend, error) {
	root, err := checkRoot(root)
	if err != nil {
		return nil, err
	}
	b := newBackend(v3client.New(e.etcd.Server), root, 0)
	b.defrag = e.etcd.Server.Defragment
	if e.cluster != nil {
		b.leads, b.fellows = e.leads, e.fellows
	}
	return b, nil
}

// Stopped is closed when the server has stopped, by Close or by an error of its own.
func (e *Embedded) Stopped() <-chan struct{} { return e.etcd.Server.StopNotify() }

// Close stops the server. What was committed is on disk before it is acknowledged, with or without Close.
func (e *Embedded) Close() error {
	e.end(e.etcd)
	return nil
}

// end stops the server. What it then says is of its own listeners, which are closed under it: that is no error.
func (e *Embedded) end(server *embed.Etcd) {
	e.level.SetLevel(zap.DPanicLevel)
	server.Close()
}

// embed makes etcd's own configuration.
func (cfg EmbeddedConfig) embed(log *zap.Logger) (*embed.Config, error) {
	c := embed.NewConfig()
	c.Name, c.Dir = memberName, cfg.Dir
	c.InitialCluster = c.InitialClusterFromName(memberName)
	c.ListenPeerUrls, c.ListenClientUrls, c.AdvertiseClientUrls = nil, nil, nil
	if cfg.Socket != "" {
		path, err := filepath.Abs(cfg.Socket)
		if err != nil {
			return nil, fmt.Errorf("etcd: socket %s: %w", cfg.Socket, err)
		}
		u := url.URL{Scheme: "unix", Path: path}
		c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{u}, []url.URL{u}
	}
	c.EnableGRPCGateway = false
	// A member alone elects itself: short ticks make it ready sooner, and allow leases of one second.
	c.TickMs, c.ElectionMs = 50, 500
	c.QuotaBackendBytes = cfg.Quota
	if cfg.Quota == 0 {
		c.QuotaBackendBytes = DefaultQuota
	}
	retention := cfg.Retention
	if retention == 0 {
		retention = DefaultRetention
	}
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, retention.String()
	c.MaxTxnOps = maxTxnOps
	c.WarningApplyDuration, c.WarningUnaryRequestDuration = slowRequest, slowRequest
	// The log's entries are kept in memory for followers that lag, and there are none.
	c.SnapshotCount, c.SnapshotCatchUpEntries = 5000, 100
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	return c, nil
}

// fatalHook is what happens at a Fatal or Panic entry of etcd's log. While it starts, that is bad data: the message is
// kept for StartEmbedded, and the goroutine ends. Later it is a defect or a broken disk, and the process must not go on.
type fatalHook struct {
	said    chan string
	running atomic.Bool
}

// OnWrite implements zapcore.CheckWriteHook.
func (h *fatalHook) OnWrite(ce *zapcore.CheckedEntry, fields []zapcore.Field) {
	if h.running.Load() {
		panic("etcd: " + ce.Message)
	}
	why := ce.Message
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok {
			why += ": " + err.Error()
		}
	}
	h.say(why)
	runtime.Goexit()
}

// say keeps the first message.
func (h *fatalHook) say(why string) {
	select {
	case h.said <- why:
	default:
	}
}

func (h *fatalHook) recover() {
	if r := recover(); r != nil {
		h.say(fmt.Sprint(r))
	}
}

// checkDir makes the data folder and tries to write there.
func checkDir(dir string) error {
	if dir == "" {
		return errors.New("etcd: no data folder is configured")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("the etcd data folder %s cannot be made: %w", dir, err)
	}
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("the etcd data folder %s is not writable: %w", dir, err)
	}
	_ = f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("the etcd data folder %s is not writable: %w", dir, err)
	}
	return nil
}

// checkDatabase opens the database for a look, since etcd itself waits without end for one that is locked, and dies
// without a word that helps of one that is broken.
func checkDatabase(path, dir string) (err error) {
	if st, err := os.Stat(path); err != nil || st.Size() == 0 {
		return nil
	}
	defer func() {
		if r := recover(); r != nil { // bbolt trusts its pages
			err = corrupt(dir, fmt.Sprint(r))
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: 300 * time.Millisecond})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("the etcd data in %s is in use by another process: stop that, or choose another folder", dir)
	}
	if err != nil {
		return corrupt(dir, err.Error())
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("close %s: %w", path, err)
	}
	return nil
}
