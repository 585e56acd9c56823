package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// valueReader reads what a configuration file refers to, and keeps a list of the files, to be watched.
type valueReader struct {
	dir   string // of the configuration file: relative paths begin there
	env   func(string) (string, bool)
	files []string
}

// path returns where a file is, and has it watched, whether it is there or not.
func (v *valueReader) path(name string) string {
	if !filepath.IsAbs(name) {
		name = filepath.Join(v.dir, name)
	}
	v.files = append(v.files, name)
	return name
}

// fromFile reads a secret from the file that a field names. A newline at its end is not part of it.
func (v *valueReader) fromFile(field, name string) (string, error) {
	b, err := readFile(v.path(name), maxValueFile)
	if err != nil {
		return "", fmt.Errorf("%s %s", field, fileReason(err))
	}
	value := strings.TrimRight(string(b), "\r\n")
	if value == "" {
		return "", errors.New(field + " is empty")
	}
	return value, nil
}

// fromEnv reads a secret from the variable that a field names.
func (v *valueReader) fromEnv(field, name string) (string, error) {
	if v.env != nil {
		if value, ok := v.env(name); ok && value != "" {
			return value, nil
		}
	}
	return "", fmt.Errorf("%s: the variable %s is not set for this process", field, clip(name))
}
