package config

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Bounds of the files that settings name.
const (
	maxValueFile = 64 << 10 // a secret, or a list of headers
	maxRootsFile = 32 << 10 // certificates
)

// readRoots reads a file of PEM certificates. Whatever else is in it is refused: a key that lies beside its certificate would
// be stored with it.
func readRoots(path string) (string, error) {
	b, err := readFile(path, maxRootsFile)
	if err != nil {
		return "", errors.New(fileReason(err))
	}
	found := false
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "", fmt.Errorf("holds a PEM block %q: only certificates belong in it", clip(block.Type))
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("holds a bad certificate: %w", err)
		}
		found = true
	}
	if !found {
		return "", errors.New("holds no PEM certificate")
	}
	return string(b), nil
}

// Roots reads a ca_file. It is nil, which stands for the system's roots, if path is empty.
func Roots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := readRoots(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(text))
	return pool, nil
}

// Headers reads a headers_file: lines of "Name: value", blank ones and those that begin with # apart. Errors hold no value.
func Headers(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	c := &collector{file: path}
	b, err := readFile(path, maxValueFile)
	if err != nil {
		c.add(position{}, "%s", fileReason(err))
		return nil, c.err()
	}
	headers := make(map[string]string)
	line := 0
	for text := range strings.Lines(string(b)) {
		line++
		if text = strings.TrimSpace(text); text == "" || text[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(text, ":")
		value = strings.TrimSpace(value)
		if !ok || !headerToken(name) || value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			c.add(position{Line: line, Column: 1}, "is not a header: write Name: value")
			continue
		}
		if _, twice := headers[name]; twice {
			c.add(position{Line: line, Column: 1}, "header %q is set twice", clip(name))
		}
		headers[name] = value
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	return headers, nil
}

// headerToken says whether s can be a header's name, as far as anybody uses it.
func headerToken(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || s[i] == '-' || s[i] == '_') {
			return false
		}
	}
	return s != "" && len(s) <= 128
}
