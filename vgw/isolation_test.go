package vgw_test

import (
	"encoding/json"
	"testing"
)

// cursorOf returns the cursor of a page's end.
func cursorOf(t *testing.T, a answer) string {
	t.Helper()
	var page struct {
		Next string `json:"next_cursor"`
	}
	if err := json.Unmarshal([]byte(a.body), &page); err != nil || page.Next == "" {
		t.Fatalf("no cursor in %d %s", a.status, a.body)
	}
	return page.Next
}
