package vgw_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/polygate/polygate/internal/tenant"
)

// jsonText generates JSON as text, in forms that a parser's round trip would change: order and repetition of names, large
// and oddly written numbers, escapes that need not be, white space.
func jsonText(depth int) *rapid.Generator[string] {
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n\t", "  "})
	str := rapid.Custom(func(t *rapid.T) string {
		part := rapid.SampledFrom([]string{
			"a", "Z", " ", `\n`, `\u0000`, `\/`, "/", `\\`, `\"`, "é", `\u00e9`, "😀", `\ud83d\ude00`, "\u2028", "<", `\u003c`, "\ufffd", "\x7f", "name", "Method", "__proto__",
		})
		return `"` + strings.Join(rapid.SliceOfN(part, 0, 4).Draw(t, "parts"), "") + `"`
	})
	number := rapid.OneOf(
		rapid.SampledFrom([]string{"0", "-0", "1", "1.0", "1.00", "1e2", "1E+2", "0.1", "1e400", "-1e-400", "12345678901234567890", "9007199254740993", "0.30000000000000004"}),
		rapid.StringMatching(`-?[1-9][0-9]{0,40}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?`),
	)
	leaf := rapid.OneOf(str, number, rapid.SampledFrom([]string{"true", "false", "null", "{}", "[]", "[ ]", "{\n}"}))
	if depth == 0 {
		return leaf
	}
	list := func(open, sep, end string, item func(*rapid.T) string) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			var items []string
			for range rapid.IntRange(0, 4).Draw(t, "n") {
				items = append(items, space.Draw(t, "space")+item(t)+space.Draw(t, "space"))
			}
			return open + strings.Join(items, sep) + end
		})
	}
	value := rapid.Deferred(func() *rapid.Generator[string] { return jsonText(depth - 1) })
	object := list("{", ",", "}", func(t *rapid.T) string {
		return str.Draw(t, "name") + space.Draw(t, "space") + ":" + space.Draw(t, "space") + value.Draw(t, "value")
	})
	array := list("[", ",", "]", func(t *rapid.T) string { return value.Draw(t, "value") })
	deep := rapid.Custom(func(t *rapid.T) string {
		n := rapid.IntRange(1, 300).Draw(t, "depth")
		return strings.Repeat(`[{"d":`, n) + value.Draw(t, "value") + strings.Repeat("}]", n)
	})
	return rapid.OneOf(object, array, leaf, deep)
}

// Whatever JSON a client sends, and whatever JSON or events a server answers, arrives as the same bytes.
func TestBytesPassUnchanged(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	var got, answer []byte
	var kind string
	url := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		if r.ContentLength != int64(len(got)) {
			t.Errorf("Content-Length %d for %d bytes", r.ContentLength, len(got))
		}
		rw.Header().Set("Content-Type", kind)
		_, _ = rw.Write(answer)
	}))
	w.addServer(t, "team-a", "s", url)
	endpoint := w.serve(t, "team-a", w.principal("team-a", tenant.Editor)) + "/servers/s/mcp"

	rapid.Check(t, func(rt *rapid.T) {
		id := rapid.SampledFrom([]string{"1", "1.0", `"x"`, "12345678901234567890", `"\u0061"`}).Draw(rt, "id")
		arguments, extra := jsonText(3).Draw(rt, "arguments"), jsonText(2).Draw(rt, "extra")
		sent := fmt.Sprintf(` {"x-extra":%s, "method" :"tools/call","params":{"arguments": %s,"name":"t\u006fol","more":%s},"id":%s,"jsonrpc":"2.0"}`+"\n", extra, arguments, extra, id)
		result := fmt.Sprintf(`{"result":%s,"id":%s,"jsonrpc":"2.0" , "later":%s}`, jsonText(3).Draw(rt, "result"), id, extra)
		kind, answer = "application/json", []byte(result)
		if rapid.Bool().Draw(rt, "events") {
			kind, answer = "text/event-stream", []byte(": keep\r\nid: 1\nretry: 5\ndata: "+strings.ReplaceAll(result, "\n", "\ndata: ")+"\n\n")
		}
		res, err := http.Post(endpoint, "application/json", strings.NewReader(sent))
		if err != nil {
			rt.Fatal(err)
		}
		back, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != 200 {
			rt.Fatalf("%d %s %v\nsent %s", res.StatusCode, back, err, sent)
		}
		if string(got) != sent {
			rt.Fatalf("the server got %s\nsent was      %s", got, sent)
		}
		if !bytes.Equal(back, answer) {
			rt.Fatalf("the client got %s\nanswered was  %s", back, answer)
		}
	})
}
