package tenant

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/fault"
)

func TestParseID(t *testing.T) {
	for _, good := range []string{"a", "0", "team-a", "t1", "t10", "a-b-c", "xn-a", strings.Repeat("a", 32), "apis", "wwww", "12345"} {
		if id, err := ParseID(good); err != nil || string(id) != good || id.String() != good {
			t.Errorf("ParseID(%q) = %q, %v", good, id, err)
		}
	}
	// X37: what could break out of a key, a label or a path, or bleed into a neighbour.
	for bad, why := range map[string]string{
		"":                       "empty",
		"a/../b":                 "holds '/'",
		"a/b":                    "holds '/'",
		"%2f":                    "holds '%'",
		"a%2fb":                  "holds '%'",
		"..":                     "holds '.'",
		"a.b":                    "holds '.'",
		"team_a":                 "holds '_'",
		"_platform":              "holds '_'",
		"Team-A":                 "holds 'T'",
		"teäm":                   "holds",
		"ⓣeam":                   "holds",
		"аdmin":                  "holds", // Cyrillic а
		"t\u200d1":               "holds",
		"a\x00":                  "holds",
		"a\n":                    "holds",
		" a":                     "holds ' '",
		"a b":                    "holds ' '",
		"a\\b":                   "holds",
		"a?b":                    "holds",
		"a#b":                    "holds",
		"a@b":                    "holds",
		"a:b":                    "holds",
		"*":                      "holds",
		"\xff":                   "holds",
		"-a":                     "begins or ends",
		"a-":                     "begins or ends",
		"-":                      "begins or ends",
		"a--b":                   "holds --",
		"xn--abc":                "holds --",
		strings.Repeat("a", 33):  "33 bytes long",
		strings.Repeat("a", 253): "253 bytes long",
		"admin":                  "reserved",
		"api":                    "reserved",
		"www":                    "reserved",
		"localhost":              "reserved",
		"tenant":                 "reserved",
		"healthz":                "reserved",
		"metrics":                "reserved",
	} {
		id, err := ParseID(bad)
		if !fault.Is(err, fault.Invalid) || id != "" || !strings.Contains(err.Error(), why) {
			t.Errorf("ParseID(%q) = %q, %v; want a fault.Invalid with %q", bad, id, err, why)
		}
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"a", "team-a", "a--b", "-", "a/../b", "%2f", "é", "admin", "_platform"} {
		f.Add(s)
	}
	grammar := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		want := grammar.MatchString(s) && !strings.Contains(s, "--") && !reserved(s)
		if (err == nil) != want {
			t.Errorf("ParseID(%q) = %v, want accepted: %v", s, err, want)
		}
		if err != nil && (id != "" || !fault.Is(err, fault.Invalid)) {
			t.Errorf("ParseID(%q) = %q, %v", s, id, err)
		}
	})
}

func TestRoles(t *testing.T) {
	if !(NoRole < Viewer && Viewer < Editor && Editor < Admin) {
		t.Error("roles are not ordered")
	}
	for text, want := range map[string]Role{"viewer": Viewer, "editor": Editor, "admin": Admin, "": Editor} {
		if r, err := ParseRole(text); err != nil || r != want {
			t.Errorf("ParseRole(%q) = %v, %v; want %v", text, r, err, want)
		}
	}
	for _, bad := range []string{"Admin", "none", "owner", " admin"} {
		if r, err := ParseRole(bad); !fault.Is(err, fault.Invalid) || r != NoRole {
			t.Errorf("ParseRole(%q) = %v, %v; want no role and a fault.Invalid", bad, r, err)
		}
	}
	for _, r := range []Role{Viewer, Editor, Admin} {
		b, err := json.Marshal(r)
		var back Role
		if err != nil || json.Unmarshal(b, &back) != nil || back != r {
			t.Errorf("%v: JSON %s comes back as %v", r, b, back)
		}
	}
	if NoRole.String() != "none" || Role(9).String() != "none" {
		t.Error("what is no role has a name")
	}
}

func TestScopeTellsTenantsOfOneNameApart(t *testing.T) {
	old, again := Confine("team-a", "uid-1"), Confine("team-a", "uid-2")
	if old == again || old.ID() != again.ID() || old.UID() != "uid-1" || old.String() != "team-a" {
		t.Errorf("scopes %v %q and %v %q", old, old.UID(), again, again.UID())
	}
	if (Scope{}).ID() != "" {
		t.Error("the zero scope names a tenant")
	}
}

func TestPrincipalRef(t *testing.T) {
	if got := (Principal{Kind: KindKey, ID: "42"}).Ref(); got != "key:42" {
		t.Errorf("Ref = %q", got)
	}
	if p := System("reload"); p.Ref() != "system:reload" || p.Tenant != "" || p.Role != NoRole {
		t.Errorf("System = %+v", p)
	}
}

func TestCheckSegment(t *testing.T) {
	for _, good := range []string{"server", "a-b_c.d", "é", strings.Repeat("a", 253)} {
		if err := CheckSegment(good); err != nil {
			t.Errorf("CheckSegment(%q) = %v", good, err)
		}
	}
	for _, bad := range []string{"", "a/b", "/", "a b", "a\nb", "a\x00", "\x7f", strings.Repeat("a", 254)} {
		if CheckSegment(bad) == nil {
			t.Errorf("CheckSegment(%q) accepts it", bad)
		}
	}
}
