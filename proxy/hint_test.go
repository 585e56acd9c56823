package proxy

import "regexp"

// isHint says whether s tells an EventSource to come again, and nothing else.
func isHint(s string) bool { return regexp.MustCompile(`^retry: [1-9][0-9]{2,4}\n\n$`).MatchString(s) }
