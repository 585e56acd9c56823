package scenario

import (
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// decoder puts a parsed document into a struct. It is stricter than YAML libraries are, and goes on after an error, so that all of
// them are told at once: an unknown key, a number where a duration belongs, a fraction that would be cut off. Fields are named by
// their yaml tags; what the document does not set keeps its value.
type decoder struct{ *collector }

func (d decoder) value(n ast.Node, v reflect.Value, path string) {
	if path != "" {
		d.where[path] = place(n)
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path)
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Slice:
		d.slice(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

func (d decoder) structure(n ast.Node, v reflect.Value, path string) {
	if _, blank := n.(*ast.NullNode); blank {
		return // a heading with nothing under it
	}
	list, ok := entries(n)
	if !ok {
		d.add(place(n), "%sis a %s where settings (name: value) belong", lead(path), kindOf(n))
		return
	}
	seen := make(map[string]bool, len(list))
	for _, e := range list {
		name := keyOf(e)
		f, ok := field(v, name)
		switch {
		case !ok:
			d.add(place(e), "%s is unknown here: known are %s", strconv.Quote(clip(name)), strings.Join(fieldNames(v.Type()), ", "))
		case seen[name]:
			d.add(place(e), "%s is there twice: take one away", name)
		default:
			d.value(e.Value, f, join(path, name))
		}
		seen[name] = true
	}
}

func (d decoder) slice(n ast.Node, v reflect.Value, path string) {
	if _, blank := n.(*ast.NullNode); blank {
		return
	}
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.add(place(n), "%sis a %s where a list belongs", lead(path), kindOf(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values)))
	for i, e := range s.Values {
		d.value(e, v.Index(i), path+"["+strconv.Itoa(i)+"]")
	}
}

func (d decoder) scalar(n ast.Node, v reflect.Value, path string) {
	text, ok := scalarText(n)
	if !ok {
		d.add(place(n), "%sis a %s where one value belongs", lead(path), kindOf(n))
		return
	}
	if wrong := setScalar(v, n, text); wrong != "" {
		d.add(place(n), "%s%s", lead(path), wrong)
	}
}

// setScalar parses text by the type of v. It returns what is wrong, or "".
func setScalar(v reflect.Value, n ast.Node, text string) string {
	if d, ok := v.Addr().Interface().(*time.Duration); ok {
		return setDuration(d, text)
	}
	quoted := strconv.Quote(clip(text))
	switch v.Kind() {
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			return quoted + " is neither true nor false"
		}
		v.SetBool(b.Value)
	case reflect.String:
		if _, ok := n.(*ast.BoolNode); ok {
			return "must be text: put it in quotes if " + text + " is meant"
		}
		v.SetString(text)
	case reflect.Int:
		i, err := strconv.Atoi(text)
		if err != nil {
			return quoted + " is not a whole number"
		}
		v.SetInt(int64(i))
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			return quoted + " is not a number"
		}
		v.SetFloat(f)
	default:
		panic("scenario: a field of kind " + v.Kind().String()) // a defect: a test decodes every field
	}
	return ""
}

func setDuration(p *time.Duration, text string) string {
	d, err := time.ParseDuration(text)
	if err != nil {
		if _, err := strconv.ParseFloat(text, 64); err == nil {
			return clip(text) + " has no unit: write, for example, 10s, 500ms or 5m"
		}
		return strconv.Quote(clip(text)) + " is not a duration: write, for example, 10s, 500ms or 5m"
	}
	*p = d
	return ""
}

func field(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); tag == name && tag != "" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		names = append(names, t.Field(i).Tag.Get("yaml"))
	}
	return names
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// lead begins a message with the field that it is about.
func lead(path string) string {
	if path == "" {
		return ""
	}
	return path + ": "
}
