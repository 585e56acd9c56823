package report

import (
	"math"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/polygate/polygate/bench/result"
)

func TestWords(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct{ got, want string }{
		{number(0), "0"}, {number(nan), unknown}, {number(math.Inf(1)), unknown}, {number(0.00123), "0.0012"}, {number(0.5), "0.50"}, {number(9.994), "9.99"},
		{number(9.996), "10.0"}, {number(99.94), "99.9"}, {number(99.96), "100"}, {number(1234.5), "1,235"}, {number(-1234567), "-1,234,567"}, {number(1e20), "1e+20"},
		{count(0), "0"}, {count(999), "999"}, {count(1000), "1,000"}, {count(-1000), "-1,000"}, {count(math.MinInt64), "-9,223,372,036,854,775,808"},
		{micros(0), "0 µs"}, {micros(12.3), "12.3 µs"}, {micros(999.6), "1.00 ms"}, {micros(1500), "1.50 ms"}, {micros(2.5e6), "2.50 s"}, {micros(nan), unknown},
		{size(0), "0 B"}, {size(1023), "1,023 B"}, {size(1024), "1.00 KiB"}, {size(1023.9 * 1024), "1.00 MiB"}, {size(-2048), "-2.00 KiB"}, {size(5 << 40), "5.00 TiB"}, {size(nan), unknown},
		{times(2.706), "2.71×"}, {times(12.34), "12.3×"}, {times(0.5), "0.50×"}, {seconds(1.5), "1.50 s"},
		{percent(0), "0%"}, {percent(0.00001), "<0.01%"}, {percent(0.004), "0.40%"}, {percent(0.05), "5.0%"}, {percent(0.5), "50%"}, {percent(nan), unknown},
		{width(result.SpreadOf([]float64{1})), ""}, {width(result.SpreadOf([]float64{0, 0})), ""}, {width(result.SpreadOf([]float64{5, 5})), "±0%"},
		{width(result.SpreadOf([]float64{99, 100, 101})), "±2.0%"}, {width(result.SpreadOf([]float64{50, 100, 150})), "±100%"}, {width(result.SpreadOf([]float64{1, 1, 1e6})), "±>999%"},
		{plain("5.00 ms"), "5 ms"}, {plain("50.0"), "50"}, {plain("100"), "100"}, {plain("1,000 µs"), "1,000 µs"}, {plain("0.50"), "0.5"},
		{plural(1, "turn"), "1 turn"}, {plural(3, "turn"), "3 turns"},
		{clean("a\nb\x1b[2J\u202ec\xff"), "a b [2J c?"}, {shorten("abcdefghij", 5), "ab…ij"}, {shorten("abc", 3), "abc"}, {shorten("abcd", 2), ""}, {shorten("abcd", -3), ""},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestShortenFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, n := rapid.String().Draw(t, "s"), rapid.IntRange(-2, 40).Draw(t, "n")
		if got := utf8.RuneCountInString(shorten(s, n)); got > max(n, 0) {
			t.Fatalf("%d runes, want at most %d", got, n)
		}
	})
}
