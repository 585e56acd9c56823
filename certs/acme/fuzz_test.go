package acme

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		in   string
		want time.Duration
		ok   bool
	}{
		{"", 0, false}, {"0", 0, true}, {"120", 2 * time.Minute, true}, {" 7 ", 7 * time.Second, true}, {"-1", 0, false}, {"+1", 0, false}, {"1.5", 0, false},
		{"99999999999999999999", maxRetryAfter, true}, {"9223372036854775807", maxRetryAfter, true}, {"soon", 0, false},
		{now.Add(time.Hour).Format(http.TimeFormat), time.Hour, true}, {now.Add(-time.Hour).Format(http.TimeFormat), 0, true},
		{now.Add(365 * 24 * time.Hour).Format(http.TimeFormat), maxRetryAfter, true}, {"Wed, 02 Jan 2030", 0, false},
	} {
		if got, ok := parseRetryAfter(tt.in, now); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %v, %v; want %v, %v", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	for _, s := range []string{"", "120", "-1", "99999999999999999999", "Wed, 02 Jan 2030 03:04:05 GMT", "Wednesday, 02-Jan-30 03:04:05 GMT"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := parseRetryAfter(s, time.Unix(1893553445, 0))
		if d < 0 || d > maxRetryAfter || !ok && d != 0 {
			t.Errorf("%q: %v, %v", s, d, ok)
		}
	})
}

func FuzzParseAccount(f *testing.F) {
	f.Add([]byte(`{"v":1,"key":"MIGH","url":"https://x/1"}`))
	f.Add([]byte(`{"v":3}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		url, key, err := parseAccount(data)
		if err == nil && (key == nil || url != "" && !strings.HasPrefix(strings.ToLower(url), "https://")) {
			t.Errorf("url %q, key %v", url, key)
		}
		if err != nil && !errors.Is(err, errStoredShape) && !errors.Is(err, errStoredVersion) {
			t.Errorf("the error may tell what was read: %v", err)
		}
	})
}

func FuzzParseChallenge(f *testing.F) {
	now := time.Unix(1893553445, 0).UTC()
	good, err := json.Marshal(storedChallenge{V: 1, Type: "http-01", Host: "a.polygate.test", Token: "tok", KeyAuth: "tok.thumb", Until: now.Add(time.Hour)})
	if err != nil {
		f.Fatal(err)
	}
	if ch, err := parseChallenge(good, "http-01", "a.polygate.test", now); err != nil || ch.HTTP01ResourcePath() != "/.well-known/acme-challenge/tok" {
		f.Fatalf("%+v, %v", ch, err)
	}
	f.Add(good)
	f.Add([]byte(`{"v":1,"type":"http-01","host":"a.polygate.test","token":"../x","key_auth":"../x.y","until":"2099-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"v":1,"type":"http-01","host":"b.polygate.test","token":"x","key_auth":"x.y","until":"2099-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"v":1,"type":"tls-alpn-01","host":"a.polygate.test","token":"x","key_auth":"x.y","until":"2099-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"v":1,"type":"http-01","host":"a.polygate.test","token":"x","key_auth":"z.y","until":"2099-01-01T00:00:00Z"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ch, err := parseChallenge(data, "http-01", "a.polygate.test", now)
		if err == nil && (!isToken(ch.Token) || ch.Identifier.Value != "a.polygate.test" || ch.Type != "http-01" || !strings.HasPrefix(ch.KeyAuthorization, ch.Token+".")) {
			t.Errorf("%+v", ch)
		}
		if err != nil && !errors.Is(err, errStoredShape) && !errors.Is(err, errStoredVersion) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the error may tell what was read: %v", err)
		}
	})
}

// Values of the next version are read, later ones are not.
func TestStoredVersions(t *testing.T) {
	for v, want := range map[int]error{0: errStoredVersion, 1: nil, 2: nil, 3: errStoredVersion} {
		data, err := json.Marshal(storedChallenge{V: v, Type: "http-01", Host: "a.polygate.test", Token: "tok", KeyAuth: "tok.thumb", Until: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseChallenge(data, "http-01", "a.polygate.test", time.Now()); !errors.Is(err, want) {
			t.Errorf("version %d: %v, want %v", v, err, want)
		}
	}
}
