package report

import (
	"fmt"
	"strings"
	"unicode"
)

// clean makes outside text safe for a terminal and for one line: a server's answer may hold what moves the cursor.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// shorten cuts the middle of s, as its ends say most.
func shorten(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	if width < 3 {
		return ""
	}
	head := (width - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(width-1-head):])
}

func figures(l Live) string {
	return fmt.Sprintf("  %d errors", l.Errors)
}
