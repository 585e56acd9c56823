package sandbox

import (
	"math"
	"strconv"
	"strings"

	"github.com/polygate/polygate/internal/fault"
)

// maxQuantity bounds what a quantity can be: a sum of all that a tenant may have stays far from an overflow.
const maxQuantity = 1e15

// ParseCPU reads "500m", "2" or "1.5": cores, into thousandths of one.
func ParseCPU(s string) (int64, error) {
	digits, unit := s, int64(1000)
	if d, ok := strings.CutSuffix(s, "m"); ok {
		digits, unit = d, 1
	}
	n, ok := scale(digits, unit)
	if !ok {
		return 0, fault.New(fault.Invalid, "%q is no number of cores: write 500m, 2 or 1.5", clip(s))
	}
	return n, nil
}

// ParseBytes reads "512Mi", "1.5Gi", "2G" or "1048576": bytes, with the suffixes of Kubernetes, and "MiB" and "MB" beside.
func ParseBytes(s string) (int64, error) {
	digits := strings.TrimRight(s, "kKMGTPiB")
	unit, ok := byteUnit(s[len(digits):])
	if ok {
		if n, ok := scale(digits, unit); ok {
			return n, nil
		}
	}
	return 0, fault.New(fault.Invalid, "%q is no number of bytes: write 512Mi, 1Gi or 1048576", clip(s))
}

func byteUnit(suffix string) (int64, bool) {
	if suffix == "" {
		return 1, true
	}
	power := strings.IndexByte("KMGTP", suffix[0])
	if suffix[0] == 'k' {
		power = 0
	}
	base := int64(1000)
	switch rest := suffix[1:]; {
	case power < 0:
		return 0, false
	case rest == "i" || rest == "iB":
		base = 1024
	case rest != "" && rest != "B":
		return 0, false
	}
	n := int64(1)
	for range power + 1 {
		n *= base
	}
	return n, true
}

// scale reads a decimal number without sign or exponent, times unit. What is left of a unit's fraction is refused, not rounded: the
// caller sees the number again that it wrote.
func scale(s string, unit int64) (int64, bool) {
	whole, frac, dotted := strings.Cut(s, ".")
	if !allDigits(whole) || dotted && !allDigits(frac) || len(whole) > 16 || len(frac) > 9 {
		return 0, false
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > maxQuantity/unit {
		return 0, false
	}
	n *= unit
	if dotted {
		f, err := strconv.ParseInt(frac, 10, 64)
		if err != nil {
			return 0, false
		}
		div := int64(math.Pow10(len(frac)))
		if f > math.MaxInt64/unit || f*unit%div != 0 {
			return 0, false
		}
		n += f * unit / div
	}
	return n, n <= maxQuantity
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// FormatCPU writes what ParseCPU reads: "500m", "2".
func FormatCPU(millis int64) string {
	if millis%1000 == 0 {
		return strconv.FormatInt(millis/1000, 10)
	}
	return strconv.FormatInt(millis, 10) + "m"
}

// FormatBytes writes what ParseBytes reads: "512Mi", or plain digits where no suffix fits.
func FormatBytes(n int64) string {
	if n == 0 {
		return "0"
	}
	i := 0
	for n%1024 == 0 && i < 5 {
		n, i = n/1024, i+1
	}
	return strconv.FormatInt(n, 10) + []string{"", "Ki", "Mi", "Gi", "Ti", "Pi"}[i]
}
