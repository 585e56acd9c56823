package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Cores is a number of CPU cores in thousandths, written as 2, 1.5 or 500m.
type Cores int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Cores) UnmarshalText(b []byte) error {
	text := string(b)
	bad := fmt.Errorf("%q is not a number of cores: write 2, 1.5 or 500m", clip(text))
	if digits, ok := strings.CutSuffix(text, "m"); ok {
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil {
			return bad
		}
		*c = Cores(n)
		return nil
	}
	whole, part, _ := strings.Cut(text, ".")
	n, err := strconv.ParseUint(whole, 10, 32)
	if err != nil || len(part) > 3 || strings.HasSuffix(text, ".") {
		return bad
	}
	thousandths := uint64(0)
	if part != "" {
		if thousandths, err = strconv.ParseUint((part + "00")[:3], 10, 32); err != nil {
			return bad
		}
	}
	*c = Cores(n*1000 + thousandths)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (c Cores) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// String returns the shortest of the forms.
func (c Cores) String() string {
	if c%1000 == 0 {
		return strconv.FormatInt(int64(c)/1000, 10)
	}
	return strconv.FormatInt(int64(c), 10) + "m"
}
