package keep

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// unknown returns the fields of an object that a newer version wrote and this one does not know: a change by this version
// must not drop them. It is asked for records of the next version only.
func unknown(object []byte, known reflect.Type, more ...string) map[string]json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(object, &fields) != nil {
		return nil
	}
	for i := range known.NumField() {
		name, _, _ := strings.Cut(known.Field(i).Tag.Get("json"), ",")
		delete(fields, name)
	}
	for name := range fields {
		if slices.Contains(more, name) {
			delete(fields, name)
		}
	}
	return fields
}

// merge adds fields to an object, at its end, so that the version stays first.
func merge(object []byte, fields map[string]json.RawMessage) ([]byte, error) {
	b, err := json.Marshal(fields)
	if err != nil || len(fields) == 0 {
		return object, err
	}
	if string(object) == "{}" {
		return b, nil
	}
	out := append(slices.Clone(object[:len(object)-1]), ',')
	return append(out, b[1:]...), nil
}
