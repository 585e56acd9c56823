package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// aSandbox is one as the API shows it.
func aSandbox(state string) map[string]any {
	return map[string]any{"id": "0199", "name": "web", "owner": "key:k", "state": state, "want": "running", "conditions": []any{}, "resources": map[string]any{"cpu": "500m"},
		"created": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z", "resource_version": "1"}
}

// sandboxAPI answers as a gateway with one running sandbox would.
func sandboxAPI(r request) (int, any) {
	switch {
	case r.method == http.MethodDelete && strings.HasPrefix(r.path, "/api/v1/sandboxes"):
		return http.StatusAccepted, aSandbox("Deleting")
	case r.method == http.MethodDelete:
		return http.StatusNoContent, nil
	case strings.HasSuffix(r.path, "/wait"):
		return http.StatusOK, map[string]any{"reached": true, "sandbox": aSandbox("Running")}
	case strings.HasSuffix(r.path, "/grants") && r.method == http.MethodGet:
		return http.StatusOK, map[string]any{"items": []any{
			map[string]any{"id": "g-1", "to": "user:corp/bob", "action": "sandbox.exec", "object": "sandbox/web"},
			map[string]any{"id": "g-2", "to": "user:corp/bob", "action": "sandbox.logs.read", "object": "sandbox/web"},
			map[string]any{"id": "g-3", "to": "user:corp/eve", "action": "sandbox.exec", "object": "sandbox/web"},
			map[string]any{"id": "g-4", "to": "user:corp/bob", "action": "sandbox.exec", "object": "sandbox/other"},
		}}
	case strings.HasSuffix(r.path, "/grants"):
		return http.StatusCreated, map[string]any{"id": "g-9", "to": r.body["to"], "action": r.body["action"], "object": r.body["object"], "until": "2026-01-01T00:00:00Z"}
	case r.method == http.MethodGet && (r.path == "/api/v1/sandboxes" || strings.HasSuffix(r.path, "/events")):
		return http.StatusOK, map[string]any{"items": []any{aSandbox("Running")}}
	}
	return http.StatusOK, aSandbox("Running")
}

// TestSandboxRequests: what each command line about sandboxes asks of the API.
func TestSandboxRequests(t *testing.T) {
	rec := newRecorder(t, sandboxAPI)
	rec.settle(t)
	t.Setenv("SECRET", "s3cret")
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("# a comment\n\nA=from the file\r\nB=b=c \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ line, want string }{
		{"sandbox list -l team=a --state Running --mine", "GET /api/v1/sandboxes?limit=500&owner=me&selector=team%3Da&state=Running"},
		{"sandbox get a/b", "GET /api/v1/sandboxes/a%2Fb"},
		{"sandbox create", "POST /api/v1/sandboxes {}"},
		{"sandbox create web -- sh -c x", `POST /api/v1/sandboxes {"command":["sh","-c","x"],"name":"web"}`},
		{"sandbox create --args -- -v", `POST /api/v1/sandboxes {"args":["-v"]}`},
		{"sandbox create web --image i --cpu 500m --memory 1Gi --storage 2Gi --gpu nvidia.com/gpu=1", `POST /api/v1/sandboxes {"image":"i","name":"web","resources":{"cpu":"500m","gpus":{"nvidia.com/gpu":1},"memory":"1Gi","storage":"2Gi"}}`},
		{"sandbox create --env SECRET --env A=1 --env-file " + file, `POST /api/v1/sandboxes {"env":[{"name":"A","value":"1"},{"name":"B","value":"b=c "},{"name":"SECRET","value":"s3cret"}]}`},
		{"sandbox create --port http=8080 --label a=b --label c= --lifetime 2h --idle-timeout 1d --runtime-class gvisor --workdir /w --provider p", `POST /api/v1/sandboxes {"idle_timeout_seconds":86400,"labels":{"a":"b","c":""},"lifetime_seconds":7200,"ports":[{"name":"http","port":8080}],"providers":["p"],"runtime_class":"gvisor","working_dir":"/w"}`},
		{"sandbox create web --wait", "GET /api/v1/sandboxes/0199/wait?for=stopped&timeout=1s"},
		{"sandbox start web", "POST /api/v1/sandboxes/web/start"},
		{"sandbox stop web job", "POST /api/v1/sandboxes/job/stop"},
		{"sandbox stop web --wait --timeout 3s", "GET /api/v1/sandboxes/0199/wait?for=stopped&timeout=3s"},
		{"sandbox delete web", "DELETE /api/v1/sandboxes/web"},
		{"sandbox delete web --wait", "GET /api/v1/sandboxes/0199/wait?for=deleted&timeout=5s"},
		{"sandbox wait web --for settled", "GET /api/v1/sandboxes/0199/wait?for=settled&timeout=5s"},
		{"sandbox events web", "GET /api/v1/sandboxes/web/events"},
		{"sandbox logs web --tail 3 --since 2026-01-01T00:00:00Z --timestamps", "GET /api/v1/sandboxes/web/logs?since=2026-01-01T00%3A00%3A00Z&tail=3&timestamps=1"},
		{"sandbox share web user:corp/bob --allow logs --until 1h", `POST /api/v1/grants {"action":"sandbox.logs.read","expires_in_seconds":3600,"object":"sandbox/web","to":"user:corp/bob"}`},
		{"sandbox unshare web user:corp/bob --allow exec", "DELETE /api/v1/grants/g-1"},
		{"sandbox unshare web user:corp/bob", "DELETE /api/v1/grants/g-2"},
		{"sandbox unshare web --all", "DELETE /api/v1/grants/g-3"},
		{"usage --from 2026-01-01T01:00:00+01:00 --to 2026-02-01T00:00:00Z --group-by owner,day -o json", "GET /api/v1/usage?from=2026-01-01T00%3A00%3A00Z&group_by=owner%2Cday&to=2026-02-01T00%3A00%3A00Z"},
		{"grant add user:corp/bob sandbox.exec sandbox/web", `POST /api/v1/grants {"action":"sandbox.exec","object":"sandbox/web","to":"user:corp/bob"}`},
	} {
		rec.asked = nil
		_, stderr, code := here(t, "", strings.Fields(tt.line)...)
		if code != 0 || len(rec.asked) == 0 {
			t.Errorf("polygate %s: exit %d, %s", tt.line, code, stderr)
			continue
		}
		last := rec.asked[len(rec.asked)-1]
		got := last.method + " " + last.path
		if len(last.query) > 0 {
			got += "?" + last.query.Encode()
		}
		if last.body != nil {
			b, _ := json.Marshal(last.body)
			got += " " + string(b)
		}
		if got != tt.want {
			t.Errorf("polygate %s\ngot  %s\nwant %s", tt.line, got, tt.want)
		}
		if strings.Contains(stderr, "s3cret") {
			t.Errorf("polygate %s shows a value:\n%s", tt.line, stderr)
		}
	}
}

// TestSandboxWrongLines: what the commands refuse before they ask anybody, and with which exit code.
func TestSandboxWrongLines(t *testing.T) {
	rec := newRecorder(t, sandboxAPI)
	rec.settle(t)
	for _, tt := range []struct {
		line, want string
		code       int
	}{
		{"sandbox create a b", "one name too many", 2},
		{"sandbox create a b -- c", "one name too many", 2},
		{"sandbox create --env NOWHERE_SET", "variable 1", 1},
		{"sandbox create --env =x", "has no name", 1},
		{"sandbox create --port 8080", "name=number", 1},
		{"sandbox create --port http=99999", "name=number", 1},
		{"sandbox create --gpu nvidia.com/gpu", "name=count", 1},
		{"sandbox create --gpu nvidia.com/gpu=0", "name=count", 1},
		{"sandbox create --label x", "name=value", 1},
		{"sandbox create --label x=1 --label x=2", "name=value", 1},
		{"sandbox create --lifetime soon", "no span", 1},
		{"sandbox create --idle-timeout 10ms", "no span", 1},
		{"sandbox create --wait --timeout 0s", "not positive", 1},
		{"sandbox wait web --for ready", "use running, stopped, deleted or settled", 1},
		{"sandbox stop", "requires at least 1 arg", 2},
		{"sandbox logs web --since yesterday", "neither a time", 1},
		{"sandbox share web user:corp/bob", "required flag", 2},
		{"sandbox share web user:corp/bob --allow everything", "use read, start", 1},
		{"sandbox share web bob --allow exec", "is no principal", 1},
		{"sandbox unshare web", "--all", 1},
		{"sandbox unshare web user:corp/bob --all", "--all", 1},
		{"sandbox watch -o yaml", "use -o json", 1},
		{"usage --from soon", "neither a time", 1},
		// Those of exec are 125, so that no script takes them for the command's.
		{"sandbox exec", "no sandbox", 125},
		{"sandbox exec web", "no command", 125},
		{"sandbox exec -- ls", "no sandbox", 125},
		{"sandbox exec web --colour -- ls", "unknown flag", 125},
		{"sandbox exec web -t -- sh", "this is none", 125},
		{"sandbox exec web -it -- sh", "this is none", 125},
		{"sandbox exec web -o xml -- sh", "table, json or yaml", 125},
	} {
		rec.asked = nil
		_, stderr, code := here(t, "", strings.Fields(tt.line)...)
		if code == 1 && tt.code == 1 || code == 2 && tt.code == 1 {
			code = tt.code // of a mistake in a value it does not matter who saw it
		}
		if code != tt.code || !strings.Contains(stderr, tt.want) || len(rec.asked) > 0 || strings.Count(stderr, "\n") != 1 {
			t.Errorf("polygate %s: exit %d and %d requests, want exit %d, none and %q\n%s", tt.line, code, len(rec.asked), tt.code, tt.want, stderr)
		}
	}
}

// TestSandboxAwait: what is told while a sandbox is waited for, and how waiting ends.
func TestSandboxAwait(t *testing.T) {
	lacking := aSandbox("Starting")
	lacking["conditions"] = []any{
		map[string]any{"type": "Ready", "status": false, "reason": "Waiting", "message": "it does not run yet"},
		map[string]any{"type": "ImageAvailable", "status": false, "reason": "ImageCannotBePulled", "message": "the image is not there\x1b[2J"},
	}
	failed := aSandbox("Failed")
	failed["run"] = map[string]any{"number": 1, "reason": "Error", "exit_code": 3, "ended": "2026-01-01T00:00:00Z"}
	done := aSandbox("Stopped")
	done["run"] = map[string]any{"number": 1, "reason": "Completed", "exit_code": 0, "ended": "2026-01-01T00:00:00Z"}
	for _, tt := range []struct {
		name    string
		line    string
		answers []any // of wait: each is a sandbox, or a status
		code    int
		want    string
	}{
		{"runs", "sandbox create --wait", []any{lacking, aSandbox("Running")}, 0, "sandbox web made\nsandbox web: Pending\nsandbox web: Starting: ImageCannotBePulled: the image is not there\\u001b[2J\nsandbox web: Running\n"},
		{"fails", "sandbox create --wait", []any{failed}, 1, "polygate: sandbox web will not be running by itself: Failed: Error (exit 3)"},
		{"fails at once, and was seen to run", "sandbox create --wait", []any{aSandbox("Running"), failed}, 1, "polygate: sandbox web ran and failed: Failed: Error (exit 3)"},
		{"fails at once when it is started", "sandbox start web --wait", []any{aSandbox("Running"), failed}, 1, "ran and failed"},
		{"ends well at once", "sandbox create --wait", []any{done}, 0, "sandbox web: Stopped: Completed"},
		{"ends well at once, and was seen to run", "sandbox create --wait", []any{aSandbox("Running"), done}, 0, "sandbox web: Stopped: Completed"},
		{"is away when it is looked at again", "sandbox create --wait", []any{aSandbox("Running"), http.StatusServiceUnavailable}, 0, "sandbox web: Running"},
		{"too long", "sandbox create --wait --timeout 1ns", []any{lacking}, 1, "by itself"},
		{"is replaced", "sandbox create --wait", []any{http.StatusServiceUnavailable, aSandbox("Running")}, 0, "sandbox web: Running"},
		{"may not", "sandbox create --wait", []any{http.StatusNotFound}, 1, "not found"},
		{"gone", "sandbox delete web --wait", []any{http.StatusNotFound}, 0, "sandbox web: deleted"},
		{"gone at once", "sandbox delete web --wait", []any{nil}, 0, "sandbox web: deleted"},
		{"never there", "sandbox wait none --for deleted", nil, 0, "sandbox none is not there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rec := newRecorder(t, func(r request) (int, any) {
				switch {
				case strings.HasSuffix(r.path, "/none"):
					return http.StatusNotFound, map[string]any{}
				case r.method == http.MethodPost:
					return http.StatusCreated, aSandbox("Pending")
				case !strings.HasSuffix(r.path, "/wait"):
					return sandboxAPI(r)
				}
				next := tt.answers[0]
				if len(tt.answers) > 1 {
					tt.answers = tt.answers[1:]
				}
				if status, ok := next.(int); ok {
					return status, map[string]any{}
				}
				one, _ := next.(map[string]any)
				if one != nil && one["state"] == "Starting" && len(tt.answers) > 0 && r.query.Get("timeout") == "5s" {
					<-time.After(waitStep * 4 / 5) // as a gateway that waits
				}
				return http.StatusOK, map[string]any{"reached": one == nil || one["state"] == "Running", "sandbox": next}
			})
			rec.settle(t)
			_, stderr, code := here(t, "", strings.Fields(tt.line)...)
			if code != tt.code || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit %d, want %d and %q\n%s", code, tt.code, tt.want, stderr)
			}
		})
	}
}

// TestSandboxOutput: tables and data of what the API answers.
func TestSandboxOutput(t *testing.T) {
	rec := newRecorder(t, sandboxAPI)
	rec.settle(t)
	for line, want := range map[string]string{
		"sandbox list":               "NAME  STATE    REASON  OWNER  IMAGE  CREATED               EXPIRES  ID\nweb   Running  -       key:k  -      2026-01-01T00:00:00Z  -        0199\n",
		"sandbox get web":            "Resources:  500m CPU, - memory, - storage\n",
		"sandbox get web -o json":    `"resource_version": "1"`,
		"sandbox create -o json":     `"state": "Running"`,
		"sandbox stop web -o yaml":   "state: Running\n",
		"sandbox wait web -o json":   `"name": "web"`,
		"sandbox delete web":         "",
		"sandbox events web":         "TIME  TYPE  REASON  COUNT  MESSAGE\n",
		"__complete sandbox get w":   "web\n:4\n",
		"__complete sandbox exec w":  "web\n:4\n",
		"__complete sandbox stop x":  ":4\n",
		"__complete sandbox stop a ": "web\n:4\n",
	} {
		args := strings.Fields(line)
		if strings.HasSuffix(line, " ") {
			args = append(args, "")
		}
		if out, stderr, code := here(t, "", args...); code != 0 || !strings.Contains(out, want) {
			t.Errorf("polygate %s: exit %d\n%s%s\nwant %q", line, code, out, stderr, want)
		}
	}
}

// TestEventStream: server-sent events, as they come.
func TestEventStream(t *testing.T) {
	text := ": hello\r\n\r\nevent: sandbox\nid: 7\ndata: {\"a\":\ndata:1}\n\nretry: 250\n\nid:8\n\ndata: alone\n\nevent: cut off\ndata: x\n"
	s := newEventStream(strings.NewReader(text))
	for _, want := range []serverEvent{
		{name: "sandbox", id: "7", data: "{\"a\":\n1}"}, {retry: 250 * time.Millisecond}, {id: "8"}, {data: "alone"},
	} {
		if got, err := s.next(); got != want || err != nil {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	if got, err := s.next(); !errors.Is(err, io.EOF) {
		t.Errorf("got %+v, %v: an event without its end is none", got, err)
	}
}

func FuzzEventStream(f *testing.F) {
	f.Add("event: sandbox\ndata: {}\n\n")
	f.Add("retry: 99999999999999999999\n\n\r\n::\n")
	f.Fuzz(func(t *testing.T, text string) {
		for s, n := newEventStream(strings.NewReader(text)), 0; ; n++ {
			e, err := s.next()
			if err != nil {
				return
			}
			if n > len(text) || e.retry < -time.Hour || e.retry > time.Minute {
				t.Fatalf("%q: event %d is %+v", text, n, e)
			}
		}
	})
}

// TestX57Logs: a log cannot drive the terminal that shows it, however it is cut, and keeps its colours.
func TestX57Logs(t *testing.T) {
	for in, want := range map[string]string{
		"plain\tünïcode 世界\n":             "plain\tünïcode 世界\n",
		"\x1b[31mred\x1b[0m":              "\x1b[31mred\x1b[0m",
		"\x1b[1;38;5;12mx\x1b[m":          "\x1b[1;38;5;12mx\x1b[m",
		"\x1b]0;title\x07":                `\u001b]0;title\u0007`,
		"\x1b[2J\x1b[5n\x1bc":             `\u001b[2J\u001b[5n\u001bc`,
		"over\rwrite\b":                   `over\u000dwrite\u0008`,
		"\xff\xfe\u009b31m\u202e":         `\xff\xfe\u009b31m\u202e`,
		"\x1b[" + strings.Repeat("1", 40): `\u001b[` + strings.Repeat("1", 40),
	} {
		for cut := 1; cut <= len(in); cut++ {
			var out strings.Builder
			w := &tameWriter{to: &out}
			for rest := in; rest != ""; rest = rest[min(cut, len(rest)):] {
				if _, err := io.WriteString(w, rest[:min(cut, len(rest))]); err != nil {
					t.Fatal(err)
				}
			}
			if out.String() != want {
				t.Errorf("%q in pieces of %d: %q, want %q", in, cut, out.String(), want)
			}
		}
	}
}

func FuzzTame(f *testing.F) {
	f.Add([]byte("\x1b[31mred\x1b[0m\x1b]0;x\x07\xff"), 3)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		var pieces strings.Builder
		w := &tameWriter{to: &pieces}
		cut = max(0, min(cut, len(text)))
		for _, p := range [][]byte{text[:cut], text[cut:]} {
			if _, err := w.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		whole, _ := tame(text)
		if pieces.String() != string(whole) {
			t.Errorf("%q cut at %d: %q, whole %q", text, cut, pieces.String(), whole)
		}
		for rest := whole; len(rest) > 0; {
			if n, ok := colour(rest); rest[0] == 0x1b && n > 0 && ok {
				rest = rest[n:]
				continue
			}
			r, n := utf8.DecodeRune(rest)
			if r != '\n' && r != '\t' && hostile(r) {
				t.Fatalf("%q lets %U pass: %q", text, r, whole)
			}
			rest = rest[n:]
		}
	})
}

// TestSandboxWatch: each change is a line, a stream that breaks off goes on after what was seen, and a refusal ends it.
func TestSandboxWatch(t *testing.T) {
	var asked []string
	srv := streamServer(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery+" "+r.Header.Get("Last-Event-ID"))
		if len(asked) == 3 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		b, _ := json.Marshal(aSandbox("Running"))
		fmt.Fprintf(w, "retry: 1\n\nid: 7\nevent: sandbox\ndata: %s\n\nid: %d\nevent: deleted\ndata: {\"id\":\"0199\",\"name\":\"we\\u001bb\"}\n\nevent: resync\ndata: {}\n\nevent: new\ndata: {}\n\n", b, 7+len(asked))
	})
	srv.settle(t)
	out, stderr, code := here(t, "", "sandbox", "watch", "-o", "json", "-l", "a=b")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 1 || !strings.Contains(stderr, "not allowed") || len(lines) != 6 {
		t.Errorf("exit %d, %d lines\n%s%s", code, len(lines), out, stderr)
	}
	if want := `{"event":"deleted","sandbox":{"id":"0199","name":"we\u001bb"}}`; lines[1] != want || lines[2] != `{"event":"resync"}` {
		t.Errorf("got %s, %s", lines[1], lines[2])
	}
	if want := "selector=a%3Db&watch=1 |selector=a%3Db&watch=1 8|selector=a%3Db&watch=1 9"; strings.Join(asked, "|") != want {
		t.Errorf("asked %q, want %q", asked, want)
	}
	asked = asked[:2]
	asked = asked[:1]
	out, _, _ = here(t, "", "sandbox", "watch")
	if !strings.Contains(out, "NAME") || !strings.Contains(out, "Running") || !strings.Contains(out, `we\u001bb`) || strings.Contains(out, "\x1b") {
		t.Errorf("as a table:\n%s", out)
	}
}

// TestSandboxLogsFollow: a log that breaks off while the run goes on is followed on, and ends with the run.
func TestSandboxLogsFollow(t *testing.T) {
	var asked []string
	state := aSandbox("Running")
	state["run"] = map[string]any{"number": 1, "started": "2026-01-01T00:00:00Z"}
	srv := streamServer(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/logs") {
			_ = json.NewEncoder(w).Encode(state)
			return
		}
		asked = append(asked, r.URL.RawQuery)
		fmt.Fprintf(w, "line %d\n", len(asked))
		if len(asked) == 1 {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		state["run"] = map[string]any{"number": 1, "started": "2026-01-01T00:00:00Z", "ended": "2026-01-01T00:00:09Z"}
	})
	srv.settle(t)
	out, stderr, code := here(t, "", "sandbox", "logs", "web", "--follow", "--tail", "5")
	if code != 0 || out != "line 1\nline 2\n" || stderr != "" {
		t.Errorf("exit %d\n%s%s", code, out, stderr)
	}
	if len(asked) != 2 || asked[0] != "follow=1&tail=5" || !strings.HasPrefix(asked[1], "follow=1&since=20") {
		t.Errorf("asked %q", asked)
	}
}
