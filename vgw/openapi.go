package vgw

import (
	"context"
	"strings"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/guard"
)

func openAPI(_ context.Context, c *call) (exchange.Decision, error) {
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.OpenAPIRead, Resource: "openapi"})
	if err != nil {
		return nil, err
	}
	var d *exchange.Reply
	if c.cfg.OpenAPI != nil {
		d = replyBytes(200, c.cfg.OpenAPI) // it is long, and the same for all: not read again for each request
	} else {
		d, err = reply(200, describe(c.r.Base, routes()))
	}
	permit.Done(err)
	return decision(d, err)
}

// document is an OpenAPI 3.1 document, as far as the routes alone give one.
type document struct {
	OpenAPI string                             `json:"openapi"`
	Info    map[string]string                  `json:"info"`
	Servers []map[string]string                `json:"servers"`
	Paths   map[string]map[string]operationDoc `json:"paths"`
	Parts   map[string]any                     `json:"components"`
	Secured []map[string][]string              `json:"security"`
}

// operationDoc describes one method of a path.
type operationDoc struct {
	Summary    string               `json:"summary"`
	ID         string               `json:"operationId"`
	Parameters []map[string]any     `json:"parameters,omitempty"`
	Responses  map[string]objectDoc `json:"responses"`
	Action     authz.Action         `json:"x-action"` // what is admitted
}

// objectDoc is a part of the document without a type of its own.
type objectDoc map[string]any

// describe makes the document from the route table.
func describe(base string, table []route) document {
	doc := document{
		OpenAPI: "3.1.0", Info: map[string]string{"title": "Polygate tenant API", "version": "1"}, Servers: []map[string]string{{"url": base}},
		Paths: map[string]map[string]operationDoc{},
		Parts: map[string]any{"securitySchemes": map[string]any{
			"bearer": map[string]string{"type": "http", "scheme": "bearer"},
			"apiKey": map[string]string{"type": "apiKey", "in": "header", "name": "X-Api-Key"},
		}},
		Secured: []map[string][]string{{"bearer": {}}, {"apiKey": {}}},
	}
	for _, r := range table {
		methods := []string{r.Method}
		if r.Method == "" {
			methods = []string{"GET", "POST", "DELETE"}
		}
		for _, m := range methods {
			if doc.Paths[r.Pattern] == nil {
				doc.Paths[r.Pattern] = map[string]operationDoc{}
			}
			doc.Paths[r.Pattern][strings.ToLower(m)] = describeOne(r, m)
		}
	}
	return doc
}

func describeOne(r route, method string) operationDoc {
	path, rest := strings.CutPrefix(r.Pattern, "/api/v1")
	if !rest {
		path = "/gateway" + path
	}
	words := strings.FieldsFunc(path, func(r rune) bool { return strings.ContainsRune("/{}.", r) })
	op := operationDoc{
		Summary: r.Summary, ID: strings.ToLower(method) + "_" + strings.Join(words, "_"), Action: r.Action,
		Responses: map[string]objectDoc{
			"2XX":     {"description": "done"},
			"default": {"description": "a problem", "content": objectDoc{"application/problem+json": objectDoc{}}},
		},
	}
	for _, s := range r.segments {
		if strings.HasPrefix(s, "{") {
			op.Parameters = append(op.Parameters, map[string]any{
				"name": strings.Trim(s, "{}"), "in": "path", "required": true, "schema": map[string]string{"type": "string"},
			})
		}
	}
	return op
}
