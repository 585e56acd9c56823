package plan

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, written as a whole number or with KiB, MiB, GiB or TiB (powers of 1024). Decimal units are refused, as
// half the world reads them as binary ones.
type Size int64

// units are the units of a Size with their shifts, the largest first.
func units() []unit { return []unit{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}} }

type unit struct {
	name  string
	shift uint
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(b []byte) error {
	digits, shift := string(b), uint(0)
	for _, u := range units() {
		if rest, ok := strings.CutSuffix(digits, u.name); ok {
			digits, shift = strings.TrimSuffix(rest, " "), u.shift
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return fmt.Errorf("%.40q is not a size: write bytes, or a whole number with KiB, MiB, GiB or TiB, such as 4GiB", b)
	}
	*s = Size(n << shift)
	return nil
}

// MarshalText implements encoding.TextMarshaler, in the largest unit that fits.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String returns the size in the largest unit that fits without a fraction.
func (s Size) String() string {
	for _, u := range units() {
		if s != 0 && s%(1<<u.shift) == 0 {
			return strconv.FormatInt(int64(s>>u.shift), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
