package seal

import (
	"encoding/base64"
	"encoding/json"
	"slices"
)

// maxNesting bounds how deep KeyIDs looks: an envelope lies at most in base64 in JSON in base64 in JSON.
const maxNesting = 16

// KeyOf returns the id of the key that made an envelope, without opening it; ok is false if it is none.
func KeyOf(envelope []byte) (id string, ok bool) {
	e, ok := parseEnvelope(envelope)
	if !ok {
		return "", false
	}
	return e.KEK, true
}

// KeyIDs returns the ids of the keys whose envelopes lie anywhere in a stored value, sorted: as JSON within JSON, or as base64
// in a string of it. So whatever was wrapped is found, whoever stored it in which form.
func KeyIDs(value []byte) []string {
	var ids []string
	findKeys(value, 0, func(id string) {
		if i, found := slices.BinarySearch(ids, id); !found {
			ids = slices.Insert(ids, i, id)
		}
	})
	return ids
}

func findKeys(b []byte, depth int, found func(id string)) {
	if depth > maxNesting || len(b) == 0 || b[0] != '{' && b[0] != '[' {
		return
	}
	if id, ok := KeyOf(b); ok {
		found(id)
		return
	}
	if b[0] == '{' {
		var members map[string]json.RawMessage
		if json.Unmarshal(b, &members) == nil {
			for _, m := range members {
				findKeysIn(m, depth+1, found)
			}
		}
		return
	}
	var elements []json.RawMessage
	if json.Unmarshal(b, &elements) == nil {
		for _, e := range elements {
			findKeysIn(e, depth+1, found)
		}
	}
}

// findKeysIn looks into one JSON value, which may be text that holds an envelope in base64.
func findKeysIn(b json.RawMessage, depth int, found func(id string)) {
	if len(b) < 2 || b[0] != '"' {
		findKeys(b, depth, found)
		return
	}
	raw, err := base64.StdEncoding.DecodeString(string(b[1 : len(b)-1])) // base64 needs no escapes in JSON
	if err == nil {
		findKeys(raw, depth, found)
	}
}
