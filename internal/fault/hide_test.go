package fault

import (
	"strings"
	"testing"
	"time"
)

func TestHide(t *testing.T) {
	const key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0w\n-----END PRIVATE KEY-----\n"
	if Hide(nil, "x", key) != nil {
		t.Error("no error became one")
	}
	for text, hidden := range map[string]bool{
		"cannot parse MIGHAgEAMBMGByqGSM49AgEG": true,
		"at odd offsets GByqGSM49AgEGCCq":       true, // 16 characters that begin anywhere
		"too short: GByqGSM49AgEGCC":            false,
		"-----BEGIN PRIVATE KEY----- is there":  false,
		"the key is weak":                       false,
	} {
		err := New(TooLarge, "%s", text).After(time.Second)
		got := Hide(err, "not told", "another", key)
		if hidden != strings.Contains(got.Error(), "not told") || hidden == strings.Contains(got.Error(), text) {
			t.Errorf("%q: got %v, hidden: %v", text, got, hidden)
		}
		if f := From(got); f.Kind != TooLarge || f.RetryAfter != time.Second {
			t.Errorf("%q: kind %v, after %v", text, f.Kind, f.RetryAfter)
		}
	}
}
