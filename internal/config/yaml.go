package config

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/goccy/go-yaml/ast"

	"github.com/polygate/polygate/internal/strictyaml"
)

// Bounds of every file. A file is an operator's, but a slip must not cost the gateway its memory: the parser's time grows
// with the square of the depth.
const (
	MaxFileBytes = 8 << 20
	maxDepth     = 32
)

// readFile reads a file whole, if it is no larger than max bytes.
func readFile(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("is larger than %d bytes", max)
	}
	return b, nil
}

// load reads and parses a YAML file of one document. The node is nil if the document is empty, or an error was added.
func load(path string, c *collector) ast.Node {
	src, err := readFile(path, MaxFileBytes)
	if err != nil {
		c.add(position{}, "%s", fileReason(err))
		return nil
	}
	return parse(src, c)
}

// require adds an error if a document, so far without one, lacks its list. To declare nothing takes an explicit empty list: a
// file that is empty is most likely being written, and would otherwise suspend every tenant.
func (c *collector) require(root ast.Node, list string) {
	if len(c.list) > 0 {
		return
	}
	if root != nil {
		if n := strictyaml.Child(root, list, 0); n != nil && n.Type() != ast.NullType {
			return
		}
	}
	c.add(position{Line: 1, Column: 1}, "there is no %[1]s list: write %[1]s: [] to declare none", list)
}

// fileReason returns an error of the file system without the path, which the message has already.
func fileReason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return fmt.Sprintf("cannot %s: %v", p.Op, p.Err)
	}
	return err.Error()
}
