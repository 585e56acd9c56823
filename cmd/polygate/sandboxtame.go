package main

import (
	"fmt"
	"io"
	"unicode/utf8"
)

// tameWriter writes text of a sandbox to a terminal so that it cannot drive it (X57): control characters are shown by their code.
// New lines, tabs and what sets colours (ECMA-48 SGR: ESC [ digits and semicolons m) stay.
type tameWriter struct {
	to   io.Writer
	rest []byte // the beginning of a character or of a colour, whose end has not come yet
}

// maxColour bounds a sequence that sets a colour, in bytes.
const maxColour = 32

func (w *tameWriter) Write(p []byte) (int, error) {
	text := append(w.rest, p...)
	out, rest := tame(text)
	w.rest = append([]byte(nil), rest...)
	if _, err := w.to.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// tame returns what of text can be written already, made safe, and what needs more.
func tame(text []byte) (out, rest []byte) {
	for len(text) > 0 {
		if text[0] == 0x1b {
			n, whole := colour(text)
			if !whole && n > 0 {
				return out, text
			}
			if n > 0 {
				out, text = append(out, text[:n]...), text[n:]
				continue
			}
		}
		if !utf8.FullRune(text) {
			return out, text
		}
		r, n := utf8.DecodeRune(text)
		switch {
		case r == '\n' || r == '\t' || !hostile(r):
			out = append(out, text[:n]...)
		case r == utf8.RuneError && n == 1:
			out = fmt.Appendf(out, `\x%02x`, text[0])
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[n:]
	}
	return out, nil
}

// colour returns the length of the sequence at the beginning of text that sets a colour; 0 = there is none. It is not whole
// if its end may still come.
func colour(text []byte) (n int, whole bool) {
	for i, b := range text {
		switch {
		case i >= maxColour:
			return 0, true
		case i == 0: // ESC
		case i == 1 && b != '[':
			return 0, true
		case i > 1 && b == 'm':
			return i + 1, true
		case i > 1 && b != ';' && (b < '0' || b > '9'):
			return 0, true
		}
	}
	return len(text), false
}
