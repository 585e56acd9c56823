package vgw

// What tests of parsers call.

// ParseControl reads a control message of an exec.
func ParseControl(p []byte) (any, error) { return parseControl(p) }

// Selector reads a selector and says which labels it chooses.
func Selector(text string) (func(map[string]string) bool, error) {
	s, err := parseSelector(text)
	return s.matches, err
}
