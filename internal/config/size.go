package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, written as a whole number or with a unit: B, KiB, MiB, GiB, TiB (powers of 1024). Decimal units
// are refused, as half the world reads them as binary ones.
type Size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(b []byte) error {
	text := string(b)
	digits := strings.TrimRight(text, "BKMGTi")
	shift, ok := unitShift(text[len(digits):])
	n, err := strconv.ParseInt(strings.TrimSuffix(digits, " "), 10, 64)
	if !ok || err != nil || n < 0 || n > math.MaxInt64>>shift {
		return fmt.Errorf("%q is not a size: write bytes, or a whole number with KiB, MiB or GiB, such as 4MiB", clip(text))
	}
	*s = Size(n << shift)
	return nil
}

func unitShift(unit string) (uint, bool) {
	switch unit {
	case "", "B":
		return 0, true
	case "KiB":
		return 10, true
	case "MiB":
		return 20, true
	case "GiB":
		return 30, true
	case "TiB":
		return 40, true
	}
	return 0, false
}

// MarshalText implements encoding.TextMarshaler, in the largest unit that fits.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String returns the size in the largest unit that fits without a fraction.
func (s Size) String() string {
	for _, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if shift, _ := unitShift(unit); s != 0 && s%(1<<shift) == 0 {
			return strconv.FormatInt(int64(s>>shift), 10) + unit
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
