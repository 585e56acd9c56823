package vgw

import (
	"errors"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/polygate/polygate/internal/fault"
)

// Bounds of a certificate that somebody provides.
const (
	maxPair     = 128 << 10            // bytes of the chain and its key together
	maxPairBody = maxPair + (32 << 10) // bytes of both as JSON, where the end of a line takes two
)

// pairBody is the body of PUT /api/v1/certificates/{host}: a chain, leaf first, and its private key. It is handed to the
// keeper and nobody else, and has no place in an error, a log or a record.
type pairBody struct {
	Chain string `json:"chain"`
	Key   string `json:"key"`
}

// decodePair reads a chain and its key.
func decodePair(c *call) (pairBody, error) {
	body, err := decodeUpTo[pairBody](c, maxPairBody)
	switch {
	case err != nil:
		return pairBody{}, discreet(err)
	case len(body.Chain)+len(body.Key) > maxPair:
		return pairBody{}, fault.New(fault.TooLarge, "chain and key are over %d bytes together", maxPair)
	}
	return body, nil
}

// whole says whether both are there. It is asked once the caller may provide one at all.
func (b pairBody) whole() error {
	if b.Chain == "" || b.Key == "" {
		return fault.New(fault.Invalid, "chain or key is missing: send both, as PEM")
	}
	return nil
}

// discreet says what is wrong with a body that holds a key. Its cause, which goes to the log, may quote a value; and what
// stands in the place of a field's name may be anything, as where somebody sends PEM for JSON.
func discreet(err error) error {
	if !fault.Is(err, fault.Invalid) {
		return err
	}
	var at jsontext.Pointer
	var syntax *jsontext.SyntacticError
	var semantic *json.SemanticError
	if errors.As(err, &syntax) {
		at = syntax.JSONPointer
	} else if errors.As(err, &semantic) {
		at = semantic.JSONPointer
	}
	if name := field(at); plainName(name) {
		return fault.New(fault.Invalid, "the field %q is unknown, repeated or no text: send chain and key, each once, as PEM in a JSON string", name)
	}
	return fault.New(fault.Invalid, "the body is not a JSON object with chain and key, each once, as PEM in a string")
}

// plainName says whether a text is the name of a field, and not what was sent in its place.
func plainName(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// without returns err without what it may quote of the pair.
func (p pairBody) without(err error) error {
	return fault.Hide(err, "chain or key is not what it should be; what is wrong would show the key, so it is not told", p.Key, p.Chain)
}
