package scenario

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
)

//go:embed builtin/*.yaml
var builtin embed.FS

// Parse reads one scenario and fills in its defaults. An error is Problems: what begins with name:line:column, a line each.
func Parse(name string, b []byte) (*Scenario, error) {
	c := &collector{file: name, where: map[string]position{}}
	root := c.tree(b)
	if root == nil {
		if len(c.list) == 0 {
			c.Add(position{Line: 1, Column: 1}, "is empty: begin with name: and loads:")
		}
		return nil, c.err()
	}
	s := &Scenario{}
	c.decode(root, s)
	if err := c.err(); err != nil {
		return nil, err // what follows would be about what was not read
	}
	s.complete(c)
	s.check(c)
	if err := c.err(); err != nil {
		return nil, err
	}
	return s, nil
}

// Read reads a scenario from a file, if what it is given has a / or ends with .yaml or .yml, and else takes the one that comes along
// by that name.
func Read(nameOrPath string) (*Scenario, error) {
	if !isPath(nameOrPath) {
		return named(nameOrPath)
	}
	f, err := os.Open(nameOrPath)
	if err != nil {
		return nil, fmt.Errorf("read a scenario: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, mostBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read a scenario: %w", err)
	}
	return Parse(nameOrPath, b)
}

func isPath(s string) bool {
	return strings.ContainsAny(s, `/\`) || path.Ext(s) == ".yaml" || path.Ext(s) == ".yml"
}

func named(name string) (*Scenario, error) {
	var known []string
	for _, s := range Builtin() {
		if s.Name == name {
			return s, nil
		}
		known = append(known, s.Name)
	}
	return nil, fmt.Errorf("there is no scenario %q: there are %s; to read a file, write its path, such as ./%s.yaml", clip(name), strings.Join(known, ", "), clip(name))
}

// Builtin returns the scenarios that come along, sorted by name. Each call makes them anew: they may be changed.
func Builtin() []*Scenario {
	var list []*Scenario
	for name, b := range BuiltinFiles() {
		s, err := Parse(name, b)
		if err != nil {
			panic("a scenario that comes along is wrong: " + err.Error()) // a defect: a test parses them all
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *Scenario) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// BuiltinFiles returns the files of the scenarios that come along, by name: to be copied and changed.
func BuiltinFiles() map[string][]byte {
	files := map[string][]byte{}
	list, err := builtin.ReadDir("builtin")
	for _, f := range list {
		var b []byte
		b, readErr := builtin.ReadFile("builtin/" + f.Name())
		files[f.Name()], err = b, errors.Join(err, readErr)
	}
	if err != nil {
		panic("the embedded scenarios: " + err.Error()) // they are in the program
	}
	return files
}

// LoadNamed returns the load with that name.
func (s *Scenario) LoadNamed(name string) (Load, bool) {
	for _, l := range s.Loads {
		if l.Name == name {
			return l, true
		}
	}
	return Load{}, false
}

// Range returns the numbers of the tenants that the draw chooses from, the first and how many, where there are so many tenants. It
// says nothing of a list, which is of names.
func (d Draw) Range(tenants int) (first, count int) {
	first = min(max(d.First, 0), tenants)
	count = tenants - first
	if d.Count > 0 {
		count = min(count, d.Count)
	}
	return first, count
}
