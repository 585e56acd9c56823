package strictyaml

import (
	"encoding"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Decoder puts a parsed document into a struct. It is stricter than YAML libraries are, and goes on after a mistake, so that all of
// them are told at once: an unknown key, a number where a duration belongs, a fraction that would be cut off, each has its place.
// Fields are named by their yaml tags; what the document does not set keeps its value.
type Decoder struct {
	Mistakes
	// Reason says what the error of an encoding.TextUnmarshaler means, without what its reader does not need; nil = the error's text.
	Reason func(error) string
	// Seen is told of each value that the document has, by its path, such as "listen.public" or "shared_hosts[1]"; nil = nobody.
	Seen func(path string, at Position)
}

// Document decodes the whole document, which must be a mapping. A nil one sets nothing. into is a pointer to a struct.
func (d Decoder) Document(root ast.Node, into any) {
	if root != nil {
		d.value(root, reflect.ValueOf(into).Elem(), "")
	}
}

func (d Decoder) value(n ast.Node, v reflect.Value, path string) {
	if d.Seen != nil && path != "" {
		d.Seen(path, Place(n))
	}
	d.put(n, v, path)
}

func (d Decoder) put(n ast.Node, v reflect.Value, path string) {
	switch {
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.put(n, v.Elem(), path)
	case isScalar(v):
		d.scalar(n, v, path)
	case v.Kind() == reflect.Struct:
		d.structure(n, v, path)
	case v.Kind() == reflect.Slice:
		d.slice(n, v, path)
	case v.Kind() == reflect.Map:
		d.texts(n, v, path)
	default:
		panic("strictyaml: a field of kind " + v.Kind().String()) // a defect: the tests of each reader decode every field
	}
}

// isScalar says whether v is written as one scalar in a file.
func isScalar(v reflect.Value) bool {
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return true
	}
	switch v.Kind() {
	case reflect.Struct, reflect.Slice, reflect.Map, reflect.Pointer:
		return false
	}
	return true
}

func (d Decoder) structure(n ast.Node, v reflect.Value, path string) {
	if _, ok := n.(*ast.NullNode); ok && path != "" {
		return // a heading with nothing under it
	}
	entries, ok := Pairs(n)
	if !ok {
		d.Add(Place(n), "%sis a %s where settings (name: value) belong", lead(path), kind(n))
		return
	}
	for _, p := range entries {
		name := KeyOf(p)
		f, ok := fieldByName(v, name)
		if !ok {
			d.Add(Place(p), "%s is unknown here: known are %s", strconv.Quote(Clip(name)), strings.Join(fieldNames(v.Type()), ", "))
			continue
		}
		d.value(p.Value, f, Join(path, name))
	}
}

func (d Decoder) slice(n ast.Node, v reflect.Value, path string) {
	v.SetZero()
	if _, ok := n.(*ast.NullNode); ok {
		return
	}
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.Add(Place(n), "%sis a %s where a list belongs", lead(path), kind(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values)))
	for i, e := range s.Values {
		if d.Full() {
			return
		}
		d.value(e, v.Index(i), path+"["+strconv.Itoa(i)+"]")
	}
}

// texts decodes a map[string]string. An empty one is nil.
func (d Decoder) texts(n ast.Node, v reflect.Value, path string) {
	v.SetZero()
	if _, ok := n.(*ast.NullNode); ok {
		return
	}
	entries, ok := Pairs(n)
	if !ok {
		d.Add(Place(n), "%sis a %s where a mapping (name: value) belongs", lead(path), kind(n))
		return
	}
	m := make(map[string]string, len(entries))
	for _, p := range entries {
		var text string
		d.scalar(p.Value, reflect.ValueOf(&text).Elem(), Join(path, Clip(KeyOf(p))))
		m[KeyOf(p)] = text
	}
	if len(m) > 0 {
		v.Set(reflect.ValueOf(m))
	}
}

func (d Decoder) scalar(n ast.Node, v reflect.Value, path string) {
	text, ok := scalarText(n)
	if !ok {
		d.Add(Place(n), "%sis a %s where one value belongs", lead(path), kind(n))
		return
	}
	if err := d.setScalar(v, n, text); err != "" {
		d.Add(Place(n), "%s%s", lead(path), err)
	}
}

// setScalar parses text by the type of v. It returns what is wrong, or "".
func (d Decoder) setScalar(v reflect.Value, n ast.Node, text string) string {
	if p, ok := v.Addr().Interface().(*netip.Prefix); ok {
		return setPrefix(p, text)
	}
	if t, ok := v.Addr().Interface().(*time.Time); ok {
		return setTime(t, text)
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return d.reason(err)
		}
		return ""
	}
	switch p := v.Addr().Interface().(type) {
	case *time.Duration:
		return setDuration(p, text)
	case *bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			return "must be true or false"
		}
		*p = b.Value
		return ""
	}
	switch v.Kind() {
	case reflect.String:
		if _, ok := n.(*ast.BoolNode); ok {
			return "must be text: put it in quotes if " + text + " is meant"
		}
		v.SetString(text)
	case reflect.Int, reflect.Int64:
		i, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return strconv.Quote(Clip(text)) + " is not a whole number"
		}
		v.SetInt(i)
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			return strconv.Quote(Clip(text)) + " is not a number"
		}
		v.SetFloat(f)
	}
	return ""
}

func setDuration(p *time.Duration, text string) string {
	d, err := time.ParseDuration(text)
	if err != nil {
		if _, err := strconv.ParseFloat(text, 64); err == nil {
			return text + " has no unit: write, for example, 10s, 500ms or 5m"
		}
		return strconv.Quote(Clip(text)) + " is not a duration: write, for example, 10s, 500ms or 5m"
	}
	*p = d
	return ""
}

// setTime reads a date-time, as UTC. The first years are refused: the zero time stands for none.
func setTime(p *time.Time, text string) string {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Year() < 2000 {
		return strconv.Quote(Clip(text)) + " is not a date-time: write, for example, 2027-01-31T00:00:00Z"
	}
	*p = t.UTC()
	return ""
}

func setPrefix(p *netip.Prefix, text string) (wrong string) {
	var err error
	if *p, err = netip.ParsePrefix(text); err != nil {
		return strconv.Quote(Clip(text)) + " is not an address range: write, for example, 10.20.0.0/16, or 10.20.0.1/32 for one address"
	}
	return ""
}

func (d Decoder) reason(err error) string {
	if d.Reason != nil {
		return d.Reason(err)
	}
	return err.Error()
}

// scalarText returns the text of a scalar as it stands in the file: 007 stays 007.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// kind returns what a node is, for people.
func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "mapping"
	case *ast.SequenceNode:
		return "list"
	case *ast.NullNode, nil:
		return "blank"
	}
	return "single value"
}

// inline is the tag of an embedded struct whose fields are written as if they were the outer one's.
const inline = ",inline"

func fieldByName(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		switch v.Type().Field(i).Tag.Get("yaml") {
		case "":
		case name:
			return v.Field(i), true
		case inline:
			if f, ok := fieldByName(v.Field(i), name); ok {
				return f, true
			}
		}
	}
	return reflect.Value{}, false
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		switch name := t.Field(i).Tag.Get("yaml"); name {
		case "":
		case inline:
			names = append(names, fieldNames(t.Field(i).Type)...)
		default:
			names = append(names, name)
		}
	}
	return names
}

// Join returns the path of a value below another: "a" and "b" are at "a.b".
func Join(path, name string) string {
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

// Clip bounds a piece of the file that a message quotes.
func Clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}
