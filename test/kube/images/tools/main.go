// Command tools is what runs in the sandboxes of tests, in place of a shell and its programs: one static program, each
// subcommand of which does one thing that a test wants to see. It is the image localhost/sandbox-tools:1.
//
//	sleep [DURATION]       waits (for ever without one); ends with 0 when it is told to
//	loop [INTERVAL]        prints "line N" again and again (default 1s); ends with 0 when it is told to
//	stubborn               prints each signal that it gets, and ends by none but SIGKILL
//	echo WORD...           prints them on the standard output; stderr WORD... on the standard error
//	lines N                prints "line 1" to "line N"
//	exit N                 ends with that code
//	cat [FILE...]          copies files, or its standard input, to its standard output
//	write FILE TEXT        writes a file
//	ls DIR                 prints the names in a folder
//	env                    prints the environment, in its order
//	id                     prints user, groups, capabilities and what else confines it
//	tty                    prints the size of its terminal, now and at each change; ends with the standard input
//	oom                    uses memory until it is killed
//	fill-disk DIR [MIB]    writes so many MiB to files in a folder (default: until it is killed), then waits
//	listen PORT [TEXT]     serves HTTP: answers with TEXT (default: its host name) to everything
//	dial ADDR...           connects by TCP to each host:port, at most 2 s each; prints "ADDR open" or why not; 1 unless all are open
//	get URL                prints the body of an answer; 1 if there is none
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "tools: no command")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		var code exitCode
		if errors.As(err, &code) {
			os.Exit(int(code))
		}
		fmt.Fprintf(os.Stderr, "tools %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// exitCode ends the program with itself.
type exitCode int

func (c exitCode) Error() string { return "exit " + strconv.Itoa(int(c)) }

func run(command string, args []string) error {
	arg := func(i int, otherwise string) string {
		if i < len(args) {
			return args[i]
		}
		return otherwise
	}
	switch command {
	case "sleep":
		return sleep(arg(0, "87600h"))
	case "loop":
		return loop(arg(0, "1s"))
	case "stubborn":
		return stubborn()
	case "echo":
		fmt.Println(strings.Join(args, " "))
	case "stderr":
		fmt.Fprintln(os.Stderr, strings.Join(args, " "))
	case "lines":
		return lines(arg(0, ""))
	case "exit":
		n, err := strconv.Atoi(arg(0, ""))
		if err != nil {
			return err
		}
		return exitCode(n)
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "id":
		return identity()
	case "tty":
		return terminal()
	case "cat":
		return cat(args)
	case "write":
		return os.WriteFile(arg(0, ""), []byte(arg(1, "")), 0o600)
	case "ls":
		return list(arg(0, "."))
	case "oom":
		return useMemory()
	case "fill-disk":
		return fillDisk(arg(0, "."), arg(1, "-1"))
	case "listen":
		return listen(arg(0, ""), arg(1, ""))
	case "dial":
		return dial(args)
	case "get":
		return get(arg(0, ""))
	default:
		return fmt.Errorf("no such command")
	}
	return nil
}

// told is sent to when the program is asked to end. As process 1 of a container it would not end by these signals by itself.
func told() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	return c
}

func sleep(duration string) error {
	d, err := time.ParseDuration(duration)
	if err != nil {
		return err
	}
	select {
	case s := <-told():
		fmt.Println("told to end:", s)
	case <-time.After(d):
	}
	return nil
}

func loop(interval string) error {
	d, err := time.ParseDuration(interval)
	if err != nil {
		return err
	}
	end, tick := told(), time.NewTicker(d)
	for n := 1; ; n++ {
		fmt.Println("line", n)
		select {
		case <-end:
			return nil
		case <-tick.C:
		}
	}
}

func stubborn() error {
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	fmt.Println("ready")
	for s := range c {
		fmt.Println(s)
	}
	return nil
}

func lines(count string) error {
	n, err := strconv.Atoi(count)
	for i := range n {
		fmt.Println("line", i+1)
	}
	return err
}

func cat(files []string) error {
	if len(files) == 0 {
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	}
	for _, name := range files {
		f, err := os.Open(filepath.Clean(name))
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func list(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	return err
}

// identity prints what the kernel says of this process: one "name=value" a line.
func identity() error {
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	fmt.Printf("uid=%d\ngid=%d\ngroups=%v\n", os.Getuid(), os.Getgid(), groups)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "CapEff", "CapBnd", "NoNewPrivs", "Seccomp":
			fmt.Printf("%s=%s\n", name, strings.TrimSpace(value))
		}
	}
	return nil
}

func terminal() error {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return errors.New("the standard input is no terminal")
	}
	changed := make(chan os.Signal, 8)
	signal.Notify(changed, syscall.SIGWINCH)
	show := func() {
		columns, rows, err := term.GetSize(fd)
		if err == nil {
			fmt.Printf("%dx%d\n", columns, rows)
		}
	}
	show()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	for {
		select {
		case <-changed:
			show()
		case <-ended:
			return nil
		}
	}
}
