package policy

import (
	"math"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// estimator returns how a function's cost follows from its operands, or nil where their size bounds it.
func estimator(name string) func([]*ast.Term) cost {
	switch name {
	case "concat", "internal.template_string":
		return joinCost
	case "sprintf":
		return sprintfCost
	case "replace":
		return replaceCost
	case "strings.replace_n":
		return replaceNCost
	case "bits.lsh":
		return func(a []*ast.Term) cost { return cost{work: shift(a[1].Value)} }
	case "numbers.range", "numbers.range_step":
		return rangeCost
	case "split", "strings.split_n":
		return func(a []*ast.Term) cost { return piecesCost(text(a[0].Value), text(a[1].Value), 64) }
	case "indexof_n":
		return func(a []*ast.Term) cost { return piecesCost(text(a[0].Value), text(a[1].Value), 64) }
	case "to_number", "units.parse", "units.parse_bytes":
		return func(a []*ast.Term) cost { return numberCost(a[0].Value) }
	case "product", "sum":
		return func(a []*ast.Term) cost { return cost{work: mul(elements(a[0].Value), 64)} }
	case "regex.match", "regex.find_n", "regex.find_all_string_submatch_n", "regex.split", "re_match", "regex.template_match", "glob.match":
		return matchCost
	case "regex.replace":
		return regexReplaceCost
	case "strings.any_prefix_match", "strings.any_suffix_match", "net.cidr_contains_matches":
		return func(a []*ast.Term) cost { return cost{work: mul(elements(a[0].Value), elements(a[1].Value))} }
	case "net.cidr_merge", "net.cidr_expand":
		return func(a []*ast.Term) cost { n := elements(a[0].Value); return cost{work: mul(n, n)} }
	case "json.patch", "json.filter", "json.remove", "object.filter", "object.remove":
		return func(a []*ast.Term) cost { return cost{work: mul(elements(a[1].Value), 16+nodes(a[0].Value))} }
	case "object.union_n":
		return func(a []*ast.Term) cost { return cost{work: mul(elements(a[0].Value), 16+widest(a[0].Value))} }
	}
	return nil
}

// mul multiplies sizes; what is too large stays too large.
func mul(a, b int) int {
	if a > 0 && b > math.MaxInt32/a {
		return math.MaxInt32
	}
	return a * b
}

func text(v ast.Value) string {
	s, _ := v.(ast.String)
	return string(s)
}

// elements returns how many elements a collection has; 1 for scalars.
func elements(v ast.Value) int {
	switch v := v.(type) {
	case *ast.Array:
		return v.Len()
	case ast.Set:
		return v.Len()
	case ast.Object:
		return v.Len()
	}
	return 1
}

// nodes returns the number of values in v.
func nodes(v ast.Value) int {
	left := maxWeight
	weigh(v, &left)
	return (maxWeight - left) / 32
}

func widest(v ast.Value) int { return nodes(v) }

// joinCost: the strings are shared, so ten thousand times one megabyte costs nothing to write down. An operand that is
// not a string counts as its weight.
func joinCost(a []*ast.Term) cost {
	last := a[len(a)-1].Value
	n := 0
	if len(a) == 2 {
		n = mul(len(text(a[0].Value)), elements(last))
	}
	left := maxWeight
	weigh(last, &left)
	return cost{bytes: n + maxWeight - left}
}

// sprintfCost: every verb may name the largest operand, and a width may stand before it.
func sprintfCost(a []*ast.Term) cost {
	format, largest := text(a[0].Value), 64
	if args, ok := a[1].Value.(*ast.Array); ok {
		for i := range args.Len() {
			left := maxWeight
			weigh(args.Elem(i).Value, &left)
			largest = max(largest, 4*(maxWeight-left)) // %q and %x write up to four bytes for one
		}
	}
	if longWidth(format) {
		return cost{bytes: math.MaxInt32}
	}
	return cost{bytes: len(format) + mul(strings.Count(format, "%"), largest+1000)}
}

// longWidth says whether a format holds a width or an index of more than three digits, or takes it from an operand.
func longWidth(format string) bool {
	in, run := false, 0
	for i := range len(format) {
		switch c := format[i]; {
		case c == '%':
			in, run = !in, 0
		case !in:
		case c >= '0' && c <= '9':
			if run++; run > 3 {
				return true
			}
		case c == '*':
			return true
		case strings.IndexByte("+-# .[]", c) >= 0:
			run = 0
		default:
			in = false
		}
	}
	return false
}

func replaceCost(a []*ast.Term) cost {
	s, old, with := text(a[0].Value), text(a[1].Value), text(a[2].Value)
	n := len(s) + 1
	if old != "" {
		n = strings.Count(s, old)
	}
	return cost{bytes: len(s) + mul(n, len(with))}
}

func replaceNCost(a []*ast.Term) cost {
	longest, n := 0, 0
	if o, ok := a[0].Value.(ast.Object); ok {
		n = o.Len()
		o.Foreach(func(_, v *ast.Term) { longest = max(longest, len(text(v.Value))) })
	}
	s := len(text(a[1].Value)) + 1
	return cost{bytes: mul(s, longest+1), work: mul(s, n)}
}

// piecesCost: a string of one megabyte splits into a million terms.
func piecesCost(s, sep string, each int) cost {
	if sep == "" {
		return cost{bytes: mul(len(s), each)}
	}
	return cost{bytes: mul(strings.Count(s, sep)+1, each)}
}

// shift returns by how much a number is shifted: each place is a bit of the result.
func shift(v ast.Value) int {
	if n, ok := v.(ast.Number); ok {
		if i, ok := n.Int(); ok && i <= 512 {
			return 0
		}
	}
	return maxWork + 1
}

func rangeCost(a []*ast.Term) cost {
	lo, ok1 := a[0].Value.(ast.Number)
	hi, ok2 := a[1].Value.(ast.Number)
	if !ok1 || !ok2 {
		return cost{}
	}
	x, ok1 := lo.Float64()
	y, ok2 := hi.Float64()
	step := 1.0
	if len(a) > 2 {
		if s, ok := a[2].Value.(ast.Number); ok {
			if f, ok := s.Float64(); ok && f > 1 {
				step = f
			}
		}
	}
	if n := math.Abs(y-x) / step * 64; ok1 && ok2 && n < maxWeight {
		return cost{bytes: int(n)}
	}
	return cost{bytes: math.MaxInt32}
}

func numberCost(v ast.Value) cost {
	if s, ok := v.(ast.String); ok && !smallNumber(string(s), 2*maxDigits) {
		return cost{work: maxWork + 1}
	}
	return cost{}
}

// matchCost: Go's expressions take time that is the product of text and compiled pattern, which repeats such as {1000}
// make larger than it looks.
func matchCost(a []*ast.Term) cost {
	pattern, subject := text(a[0].Value), 0
	for _, t := range a[1:] {
		subject = max(subject, len(text(t.Value)))
	}
	return cost{work: mul(programSize(pattern), subject+64)}
}

func regexReplaceCost(a []*ast.Term) cost {
	s, with := text(a[0].Value), text(a[2].Value)
	made := mul(len(with)+1, len(s)+1)
	if strings.Contains(with, "$") {
		made = mul(made, len(s)+1)
	}
	return cost{bytes: made, work: mul(programSize(text(a[1].Value)), len(s)+64)}
}

// programSize estimates how large a pattern is once compiled. A repeat of n copies what stands before it, at most 1000
// times altogether (regexp/syntax), so the product of all repeats bounds the growth.
func programSize(pattern string) int {
	n, repeat := 0, 1
	for i := 0; i < len(pattern); i++ {
		if pattern[i] != '{' {
			continue
		}
		most, at := 0, 0
		for i++; i < len(pattern) && pattern[i] != '}'; i++ {
			if c := pattern[i]; c >= '0' && c <= '9' {
				at = min(at*10+int(c-'0'), 1000)
				most = max(most, at)
			} else {
				at = 0
			}
		}
		n++
		repeat = min(mul(repeat, max(most, 1)), 1000)
	}
	return mul(len(pattern)+n, repeat)
}
