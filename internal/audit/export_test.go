package audit

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func fullRecord() Record {
	return Record{Seq: 7, Entry: Entry{ID: "id", Time: time.Date(2026, 8, 1, 10, 0, 0, 5, time.UTC), Tenant: "team-a", TenantUID: "uid", Replica: "r1", Principal: "user:u1",
		Name: "Ada", Role: "admin", Action: "server.create", Resource: "server/x", Decision: Allow, Rule: "role", Outcome: OutcomeOK, RequestID: "req", Millis: 12,
		Issuer: "https://idp.example", KeyID: "k1", Via: ViaOIDC, Bundle: "sha256:1", Remote: "192.0.2.1"}}
}

func TestCSV(t *testing.T) {
	var b bytes.Buffer
	e := NewCSV(&b)
	if err := e.Encode(fullRecord()); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	const want = "id,time,tenant,principal,name,role,issuer,key_id,via,action,resource,decision,rule,bundle,outcome,request_id,replica,remote,ms\n" +
		"id,2026-08-01T10:00:00.000000005Z,team-a,user:u1,Ada,admin,https://idp.example,k1,oidc,server.create,server/x,allow,role,sha256:1,ok,req,r1,192.0.2.1,12\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := NewCSV(&b).Close(); err != nil || b.String() != strings.Join(CSVColumns(), ",")+"\n" {
		t.Errorf("an empty export is %q, %v; want the header", b.String(), err)
	}
}

// TestCSVHasNoFormulas (CWE-1236), and X57 for the exports: no field begins a formula, a line or a terminal's escape.
func TestX57ExportsAreText(t *testing.T) {
	bad := append(hostile(), "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\u00a0=1", "＝1", "=cmd|'/C calc'!A0", `=HYPERLINK("http://x")`, `a,"b"`)
	kind := reflect.TypeFor[Entry]()
	for i := range kind.NumField() {
		if kind.Field(i).Type.Kind() != reflect.String {
			continue
		}
		for _, s := range bad {
			r := fullRecord()
			reflect.ValueOf(&r.Entry).Elem().Field(i).SetString(s)
			checkCSV(t, kind.Field(i).Name, r)
			checkJSON(t, kind.Field(i).Name, r)
		}
	}
}

func checkCSV(t *testing.T, field string, r Record) {
	t.Helper()
	var b bytes.Buffer
	e := NewCSV(&b)
	if err := e.Encode(r); err != nil {
		t.Fatal(err)
	}
	_ = e.Close()
	rows, err := csv.NewReader(bytes.NewReader(b.Bytes())).ReadAll()
	if err != nil || len(rows) != 2 || len(rows[1]) != len(CSVColumns()) || bytes.Count(b.Bytes(), []byte("\n")) != 2 {
		t.Fatalf("%s: %d rows, %v in %q", field, len(rows), err, b.String())
	}
	for i, cell := range rows[1] {
		if strings.ContainsAny(cell, "\r\n\t\x1b\x00\u2028\u202e") || cell != "" && strings.ContainsAny(strings.TrimLeft(cell, " \u00a0")[:min(1, len(strings.TrimLeft(cell, " \u00a0")))], "=+-@") {
			t.Fatalf("%s: column %s is %q", field, CSVColumns()[i], cell)
		}
	}
}

func checkJSON(t *testing.T, field string, r Record) {
	t.Helper()
	var b bytes.Buffer
	if err := NewJSONLines(&b).Encode(r); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(bytes.TrimSuffix(b.Bytes(), []byte("\n")), unprintable) {
		t.Fatalf("%s: %q is not one line of printable ASCII", field, b.String())
	}
	var back Record
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || back.ID == "" && field != "ID" || back.Seq != 7 {
		t.Fatalf("%s: %q: %v", field, b.String(), err)
	}
}

func TestJSONLines(t *testing.T) {
	var b bytes.Buffer
	e := NewJSONLines(&b)
	for range 3 {
		if err := e.Encode(fullRecord()); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(&b)
	for range 3 {
		var back Record
		if err := d.Decode(&back); err != nil || back != fullRecord() {
			t.Fatalf("came back as %+v, %v", back, err)
		}
	}
}

// TestOldLinesAreRead: a line of before these fields.
func TestOldLinesAreRead(t *testing.T) {
	const old = `{"id":"1","time":"2026-07-01T00:00:00Z","tenant":"team-a","principal":"key:k1","action":"server.create","decision":"allow"}`
	l := Head{}.Next("team-a", []byte(old))
	e, err := l.Decode()
	if err != nil || e.Action != "server.create" || e.Issuer != "" {
		t.Errorf("%+v, %v", e, err)
	}
	if again := EncodeEntry(e); string(again) != old {
		t.Errorf("written again as %s", again)
	}
}
