package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

const mebibyte = 1 << 20

// useMemory takes memory until the kernel ends the process.
func useMemory() error {
	var held [][]byte
	for {
		b := make([]byte, 4*mebibyte)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1 // else the kernel would not give it
		}
		held = append(held, b)
		if len(held)%16 == 0 {
			fmt.Println("holds", len(held)*4, "MiB")
		}
	}
}

// fillDisk writes count MiB, or without end if it is negative, and then waits to be seen.
func fillDisk(dir, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		return err
	}
	for i := 0; i != n; i++ {
		if _, err := io.CopyN(f, rand.Reader, mebibyte); err != nil {
			return errors.Join(fmt.Errorf("after %d MiB: %w", i, err), f.Close())
		}
	}
	fmt.Println("wrote", n, "MiB")
	if err := f.Close(); err != nil {
		return err
	}
	return sleep("1h")
}

func listen(port, text string) error {
	if text == "" {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		text = name
	}
	srv := &http.Server{
		Addr:              ":" + port,
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			log.Printf("%q %q from %s", r.Method, r.URL.Path, r.RemoteAddr)
			fmt.Fprintln(w, text)
		}),
	}
	go func() {
		<-told()
		_ = srv.Close()
	}()
	fmt.Println("listens on", port)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// dial tries all addresses at the same time, and prints them in their order.
func dial(addresses []string) error {
	results := make([]string, len(addresses))
	var wg sync.WaitGroup
	for i, a := range addresses {
		wg.Go(func() { results[i] = try(a) })
	}
	wg.Wait()
	closed := 0
	for i, a := range addresses {
		fmt.Println(a, results[i])
		if results[i] != "open" {
			closed++
		}
	}
	if closed > 0 {
		return exitCode(1)
	}
	return nil
}

func try(address string) string {
	conn, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		return err.Error()
	}
	_ = conn.Close()
	return "open"
}

func get(url string) error {
	client := http.Client{Timeout: 3 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}
