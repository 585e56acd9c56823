package backend

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
)

// Command is the process that serves this configuration, run by a polybench binary: `polybench upstream …`. Its standard input has
// to stay open as long as it is to serve; its first line of output are its Ports as JSON.
func Command(binary string, cfg Config) *exec.Cmd {
	args := []string{"upstream", "--seed", cfg.Seed, "--answer-bytes", strconv.Itoa(cfg.AnswerBytes), "--port", strconv.Itoa(cfg.Port)}
	if cfg.TLS != nil {
		args = append(args, "--cert-dir", cfg.TLS.CertDir, "--tls-port", strconv.Itoa(cfg.TLS.Port))
	}
	if cfg.Control != "" {
		args = append(args, "--control", cfg.Control)
	}
	return exec.Command(binary, args...) //nolint:gosec // the program is polybench itself
}

// Main is `polybench upstream` with the arguments behind that word: it prints a line with its Ports when it is ready and serves
// until its input closes or it is told to end.
func Main(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	cfg, err := parseArgs(args)
	if err != nil {
		return err
	}
	// With next to nothing on its heap the collector would run all the time: at this it costs a third less, and memory is not what
	// we have to save.
	debug.SetGCPercent(400)
	s, err := New(cfg)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	if err := json.NewEncoder(out).Encode(s.Ports()); err != nil {
		cancel()
		_ = s.Run(ctx)
		return fmt.Errorf("say the ports: %w", err)
	}
	return s.Run(ctx)
}

func parseArgs(args []string) (Config, error) {
	var cfg Config
	var certs TLS
	f := flag.NewFlagSet("upstream", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&cfg.Seed, "seed", "", "of the canaries")
	f.IntVar(&cfg.AnswerBytes, "answer-bytes", defaultAnswer, "of each answer's body")
	f.IntVar(&cfg.Port, "port", 0, "of the plain listener")
	f.StringVar(&certs.CertDir, "cert-dir", "", "with <host>.pem and <host>-key.pem")
	f.IntVar(&certs.Port, "tls-port", 0, "of the TLS listener")
	f.StringVar(&cfg.Control, "control", "", "address of the control listener")
	if err := f.Parse(args); err != nil {
		return cfg, fmt.Errorf("polybench upstream: %w", err)
	}
	if f.NArg() > 0 {
		return cfg, fmt.Errorf("polybench upstream: nothing is expected behind its options, and %q is", f.Arg(0))
	}
	if certs.CertDir != "" {
		cfg.TLS = &certs
	}
	return cfg, nil
}
