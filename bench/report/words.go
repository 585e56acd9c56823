package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/polygate/polygate/bench/result"
)

// unknown stands where a figure was not measured.
const unknown = "–"

// clean makes outside text safe for a terminal and for one line: a class of errors may come from a server's answer, and hold what
// moves the cursor or turns the direction of writing.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
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

// number returns v with three significant digits, or all before the point, with thousands set apart.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return unknown
	case a == 0:
		return "0"
	case a >= 1e15:
		return strconv.FormatFloat(v, 'g', 3, 64)
	case a >= 99.95:
		return count(int64(math.Round(v)))
	case a >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 0.01:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

// plain takes the zeros behind the point from a round figure at an axis: "5.00 ms" is "5 ms".
func plain(s string) string {
	figure, unit, _ := strings.Cut(s, " ")
	if strings.Contains(figure, ".") {
		figure = strings.TrimRight(strings.TrimRight(figure, "0"), ".")
	}
	return strings.TrimSpace(figure + " " + unit)
}

// count returns n with thousands set apart.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// micros returns a time for people from microseconds.
func micros(us float64) string {
	switch {
	case math.IsNaN(us):
		return unknown
	case us < 999.5:
		return number(us) + " µs"
	case us < 999_500:
		return number(us/1e3) + " ms"
	}
	return number(us/1e6) + " s"
}

// size returns a number of bytes for people.
func size(b float64) string {
	unit := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; math.Abs(b) >= 1023.5 && i < len(unit)-1; i++ {
		b /= 1024
	}
	if math.IsNaN(b) {
		return unknown
	}
	return number(b) + " " + unit[i]
}

// kibibytes is size in the unit that the aims for a tenant have, so that rows compare.
func kibibytes(b float64) string { return number(b/1024) + " KiB" }

func seconds(s float64) string { return number(s) + " s" }

func times(v float64) string {
	if v >= 9.995 || v > 0 && v < 0.01 {
		return number(v) + "×"
	}
	return strconv.FormatFloat(v, 'f', 2, 64) + "×"
}

// percent returns a share for people.
func percent(share float64) string {
	switch p := 100 * share; {
	case math.IsNaN(p) || math.IsInf(p, 0):
		return unknown
	case p == 0:
		return "0%"
	case p < 0.01:
		return "<0.01%"
	case p < 1:
		return strconv.FormatFloat(p, 'f', 2, 64) + "%"
	case p < 9.95:
		return strconv.FormatFloat(p, 'f', 1, 64) + "%"
	default:
		return strconv.FormatFloat(p, 'f', 0, 64) + "%"
	}
}

// width returns the spread of the runs relative to their median, or nothing where there is none to tell.
func width(s result.Spread) string {
	if s.N < 2 || s.Median == 0 {
		return ""
	}
	switch p := 100 * s.Width() / math.Abs(s.Median); {
	case p < 0.05:
		return "±0%"
	case p > 999:
		return "±>999%"
	case p < 9.95:
		return "±" + strconv.FormatFloat(p, 'f', 1, 64) + "%"
	default:
		return "±" + strconv.FormatFloat(p, 'f', 0, 64) + "%"
	}
}

// plural returns "1 turn" or "3 turns".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(int64(n)) + " " + one + "s"
}

// figures are the numbers of a live line, all of them or the most needed.
func figures(l Live, all bool) string {
	rate := 0.0
	if l.Seconds > 0 {
		rate = float64(l.Requests) / l.Seconds
	}
	s := fmt.Sprintf("  %s/s  %s errors", number(rate), count(l.Errors))
	if l.P99 > 0 {
		s += fmt.Sprintf("  p50 %s  p99 %s", micros(l.P50), micros(l.P99))
	}
	if all && l.InFlight > 0 {
		s += "  " + count(int64(l.InFlight)) + " in flight"
	}
	if l.Left > 0 {
		s += "  " + l.Left.Round(time.Second).String() + " left"
	}
	return s
}
