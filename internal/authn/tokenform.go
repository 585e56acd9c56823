package authn

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth is how deep the JSON of a token may be nested: no real one goes beyond a few levels, and a decoder that recurses
// is cheap to keep busy.
const maxDepth = 16

// compact is a JWS in the compact form (RFC 7515 §3.1), taken apart and not yet believed.
type compact struct {
	raw     string
	header  joseHeader
	payload []byte
}

// joseHeader holds the header parameters that are looked at. Those that would have us take a key from the token itself, fetch
// one from where the token says, or read the payload in another way, are refused where they appear (RFC 8725 §3.10).
type joseHeader struct {
	Alg string `json:"alg"`
	Kid string `json:"kid"`
	Typ string `json:"typ"`

	Crit jsontext.Value `json:"crit"`
	JWK  jsontext.Value `json:"jwk"`
	JKU  jsontext.Value `json:"jku"`
	X5U  jsontext.Value `json:"x5u"`
	B64  jsontext.Value `json:"b64"`
	Enc  jsontext.Value `json:"enc"`
	Zip  jsontext.Value `json:"zip"`
}

func (h *joseHeader) check() error {
	for _, v := range []jsontext.Value{h.Crit, h.JWK, h.JKU, h.X5U, h.B64, h.Enc, h.Zip} {
		if len(v) > 0 {
			return errors.New("a header parameter that is not understood or not allowed")
		}
	}
	if h.Alg == "" {
		return errors.New("no alg")
	}
	return nil
}

// isAccess says whether typ may be a token to call us with: a JWT, an access token (RFC 9068 §2.1), or unsaid. Tokens made for
// another purpose by the same issuer, such as logout+jwt, are none (RFC 8725 §3.11).
func (h *joseHeader) isAccess() bool { return h.typ() == "" || h.typ() == "jwt" || h.typ() == "at+jwt" }

// isID says whether typ may be an id token's.
func (h *joseHeader) isID() bool { return h.typ() == "" || h.typ() == "jwt" }

// typ is a media type, whose application/ may be left out, in any case (RFC 7515 §4.1.9).
func (h *joseHeader) typ() string {
	return strings.TrimPrefix(strings.ToLower(h.Typ), "application/")
}

// parseCompact takes a token apart. It is stricter than go-jose, which decodes base64 with line ends and stray bits: one
// token has one spelling, or what is revoked or cached under one hash comes back under another.
func parseCompact(s string) (*compact, error) {
	if len(s) > MaxCredential {
		return nil, fmt.Errorf("a token of %d bytes", len(s))
	}
	part := strings.SplitN(s, ".", 4)
	if len(part) != 3 {
		return nil, errors.New("not a JWS in the compact form")
	}
	head, err := segment(part[0])
	if err != nil {
		return nil, err
	}
	c := &compact{raw: s}
	if err := strictJSON(head, &c.header); err != nil {
		return nil, err
	}
	if c.payload, err = segment(part[1]); err != nil {
		return nil, err
	}
	if sig, err := segment(part[2]); err != nil || len(sig) == 0 {
		return nil, errors.New("no signature")
	}
	return c, c.header.check()
}

// segment decodes base64url without padding, line ends and stray bits.
func segment(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") { // which package base64 passes over, strict or not
		return nil, errors.New("base64 with line ends")
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// strictJSON decodes an object without duplicate names, invalid UTF-8 and deep nesting. Names are compared byte for byte.
func strictJSON(b []byte, v any) error {
	if depth(b) > maxDepth {
		return errors.New("JSON that is nested too deeply")
	}
	if i := slices.IndexFunc(b, func(c byte) bool { return c != ' ' && c != '\t' && c != '\n' && c != '\r' }); i < 0 || b[i] != '{' {
		return errors.New("not a JSON object")
	}
	return json.Unmarshal(b, v)
}

// depth returns how deep b is nested, if it is JSON; brackets in texts do not count.
func depth(b []byte) (deepest int) {
	at, text := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case text:
		case c == '{' || c == '[':
			at++
			deepest = max(deepest, at)
		case c == '}' || c == ']':
			at--
		}
	}
	return deepest
}
