package wire_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/mcp/wire"
)

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		body string
		want wire.Message
	}{
		"request":           {`{"jsonrpc":"2.0","id":1,"method":"ping"}`, wire.Message{ID: []byte("1"), Method: "ping"}},
		"text id":           {`{"jsonrpc":"2.0", "id" : "a\u0062" ,"method":"ping"}`, wire.Message{ID: []byte(`"a\u0062"`), Method: "ping"}},
		"large id":          {`{"jsonrpc":"2.0","id":12345678901234567890,"method":"ping"}`, wire.Message{ID: []byte("12345678901234567890"), Method: "ping"}},
		"notification":      {`{"jsonrpc":"2.0","method":"notifications/initialized"}`, wire.Message{Method: "notifications/initialized"}},
		"response":          {`{"jsonrpc":"2.0","id":7,"result":{"method":"tools/call"}}`, wire.Message{ID: []byte("7")}},
		"error response":    {`{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}`, wire.Message{ID: []byte("null")}},
		"tool":              {`{"method":"tools/call","params":{"arguments":{"name":"deep"},"name":"echo"},"id":1,"jsonrpc":"2.0"}`, wire.Message{ID: []byte("1"), Method: "tools/call", HasParams: true, Name: "echo", HasName: true}},
		"an escaped name":   {`{"jsonrpc":"2.0","id":1,"m\u0065thod":"tools\/call","params":{"n\u0061me":"\u0065cho"}}`, wire.Message{ID: []byte("1"), Method: "tools/call", HasParams: true, Name: "echo", HasName: true}},
		"resource":          {`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a://b"}}`, wire.Message{ID: []byte("1"), Method: "resources/read", HasParams: true, URI: "a://b", HasURI: true}},
		"array params":      {`{"jsonrpc":"2.0","id":1,"method":"x","params":[1,{"Name":2}]}`, wire.Message{ID: []byte("1"), Method: "x"}},
		"name of no string": {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}`, wire.Message{ID: []byte("1"), Method: "tools/call", HasParams: true}},
		"repeats below":     {`{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":{"name":1,"name":2,"Name":3},"b":1,"b":2}}`, wire.Message{ID: []byte("1"), Method: "x", HasParams: true}},
		"meta":              {`{"jsonrpc":"2.0","id":1,"method":"x","params":{"meta":1,"_meta":{}}}`, wire.Message{ID: []byte("1"), Method: "x", HasParams: true}},
		"unknown members":   {`{"jsonrpc":"2.0","id":1,"method":"x","future":[{}],"x":null}`, wire.Message{ID: []byte("1"), Method: "x"}},
		"white space":       {" \n\t{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\"}\r\n ", wire.Message{ID: []byte("1"), Method: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := wire.Parse([]byte(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			if !equal(*got, tc.want) {
				t.Errorf("got %+v, want %+v", *got, tc.want)
			}
		})
	}
}

func equal(a, b wire.Message) bool {
	ids := bytes.Equal(a.ID, b.ID)
	a.ID, b.ID = nil, nil
	return ids && a.Method == b.Method && a.Name == b.Name && a.URI == b.URI && a.HasName == b.HasName && a.HasURI == b.HasURI && a.HasParams == b.HasParams
}

func TestParseRefuses(t *testing.T) {
	in := func(member string) string { return `{"jsonrpc":"2.0","id":1,"method":"tools/call",` + member + `}` }
	params := func(member string) string { return in(`"params":{"name":"echo",` + member + `}`) }
	for name, tc := range map[string]struct {
		body string
		code int
	}{
		"nothing":                   {``, wire.CodeParse},
		"half":                      {`{"jsonrpc":"2.0","id":1,`, wire.CodeParse},
		"text":                      {`hello`, wire.CodeParse},
		"byte order mark":           {"\ufeff{}", wire.CodeParse},
		"a value":                   {`"x"`, wire.CodeInvalid},
		"batch":                     {`[{"jsonrpc":"2.0","id":1,"method":"x"}]`, wire.CodeInvalid},
		"two messages":              {`{"jsonrpc":"2.0","id":1,"method":"x"}{"jsonrpc":"2.0","id":1,"method":"y"}`, wire.CodeParse},
		"two lines":                 {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\"}\n{}", wire.CodeParse},
		"comment":                   {`{"jsonrpc":"2.0","id":1,/**/"method":"x"}`, wire.CodeParse},
		"trailing comma":            {`{"jsonrpc":"2.0","id":1,"method":"x",}`, wire.CodeParse},
		"NaN":                       {in(`"params":{"a":NaN}`), wire.CodeParse},
		"raw control byte":          {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\ny\"}", wire.CodeParse},
		"invalid UTF-8":             {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\xff\"}", wire.CodeParse},
		"invalid UTF-8 below":       {params("\"a\":\"\xc0\xaf\""), wire.CodeParse},
		"half a surrogate":          {params(`"a":"\ud800"`), wire.CodeParse},
		"no version":                {`{"id":1,"method":"x"}`, wire.CodeInvalid},
		"version 1":                 {`{"jsonrpc":"1.0","id":1,"method":"x"}`, wire.CodeInvalid},
		"version as number":         {`{"jsonrpc":2.0,"id":1,"method":"x"}`, wire.CodeInvalid},
		"no method, no result":      {`{"jsonrpc":"2.0","id":1}`, wire.CodeInvalid},
		"method and result":         {in(`"result":{}`), wire.CodeInvalid},
		"result and error":          {`{"jsonrpc":"2.0","id":1,"result":{},"error":{}}`, wire.CodeInvalid},
		"response without id":       {`{"jsonrpc":"2.0","result":{}}`, wire.CodeInvalid},
		"method of no string":       {`{"jsonrpc":"2.0","id":1,"method":["tools/call"]}`, wire.CodeInvalid},
		"empty method":              {`{"jsonrpc":"2.0","id":1,"method":""}`, wire.CodeInvalid},
		"null id":                   {`{"jsonrpc":"2.0","id":null,"method":"x"}`, wire.CodeInvalid},
		"object id":                 {`{"jsonrpc":"2.0","id":{},"method":"x"}`, wire.CodeInvalid},
		"long id":                   {`{"jsonrpc":"2.0","id":"` + strings.Repeat("a", 2000) + `","method":"x"}`, wire.CodeInvalid},
		"method twice":              {in(`"method":"ping"`), wire.CodeInvalid},
		"id twice":                  {in(`"id":2`), wire.CodeInvalid},
		"params twice":              {in(`"params":{},"params":{}`), wire.CodeInvalid},
		"method twice, escaped":     {in(`"m\u0065thod":"ping"`), wire.CodeInvalid},
		"Method":                    {in(`"Method":"ping"`), wire.CodeInvalid},
		"METHOD alone":              {`{"jsonrpc":"2.0","id":1,"METHOD":"ping"}`, wire.CodeInvalid},
		"Params":                    {in(`"Params":{"name":"other"}`), wire.CodeInvalid},
		"a long s":                  {in(`"param\u017f":{"name":"other"}`), wire.CodeInvalid},
		"meth_od":                   {in(`"meth_od":"ping"`), wire.CodeInvalid},
		"Result":                    {in(`"Result":{}`), wire.CodeInvalid},
		"name twice":                {params(`"name":"other"`), wire.CodeInvalid},
		"NAME":                      {params(`"NAME":"other"`), wire.CodeInvalid},
		"URI":                       {params(`"URI":"other"`), wire.CodeInvalid},
		"_Meta":                     {params(`"_Meta":{}`), wire.CodeInvalid},
		"a name with _":             {params(`"na_me":"rm"`), wire.CodeInvalid},
		"a uri with -":              {params(`"u-r-i":"x"`), wire.CodeInvalid},
		"_meta twice":               {params(`"_meta":{},"_meta":{}`), wire.CodeInvalid},
		"protocolversion":           {params(`"protocolversion":""`), wire.CodeInvalid},
		"nested beyond all reason":  {in(`"params":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000)), wire.CodeParse},
		"a name without its object": {`{"jsonrpc":"2.0","id":1,"method":"x"`, wire.CodeParse},
	} {
		t.Run(name, func(t *testing.T) {
			msg, err := wire.Parse([]byte(tc.body))
			if !fault.Is(err, fault.Invalid) || fault.From(err).Code != tc.code {
				t.Fatalf("got %v (code %d), want code %d", err, fault.From(err).Code, tc.code)
			}
			if msg == nil {
				t.Error("no message to answer to")
			}
		})
	}
}

// FuzzParse holds what is accepted to what the usual parser of the other side, encoding/json, reads in it.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"a":1.0}}}`,
		`{"jsonrpc":"2.0","id":"x","result":{}}`, `[]`, `{"jsonrpc":"2.0","METHOD":"x","id":1}`, `{"jsonrpc":"2.0","method":"\ud83d\ude00"}`,
		`{"jsonrpc":"2.0","id":1,"method":"x","params":{"name":"a","Name":"b"}}`, `{"jsonrpc":"2.0","id":1,"method":"x","param\u017f":{}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		kept := bytes.Clone(body)
		msg, err := wire.Parse(body)
		if !bytes.Equal(kept, body) {
			t.Fatal("the body was changed")
		}
		if err != nil {
			if !fault.Is(err, fault.Invalid) || fault.From(err).Code == 0 {
				t.Fatalf("unclassified: %v", err)
			}
			return
		}
		var other struct {
			ID     json.RawMessage
			Method string
			Params json.RawMessage
		}
		if err := json.Unmarshal(body, &other); err != nil {
			t.Fatalf("accepted what encoding/json refuses: %v", err)
		}
		if other.Method != msg.Method || !bytes.Equal(other.ID, msg.ID) {
			t.Fatalf("read %q id %s, another parser %q id %s", msg.Method, msg.ID, other.Method, other.ID)
		}
		if !msg.HasParams {
			return
		}
		var params struct{ Name, URI any }
		if err := json.Unmarshal(other.Params, &params); err != nil {
			t.Fatalf("params: %v", err)
		}
		name, _ := params.Name.(string)
		uri, _ := params.URI.(string)
		if name != msg.Name || uri != msg.URI {
			t.Fatalf("read %q %q, another parser %q %q", msg.Name, msg.URI, name, uri)
		}
	})
}
