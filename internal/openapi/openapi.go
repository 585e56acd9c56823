// Package openapi holds the descriptions of the two APIs, as OpenAPI 3.1 documents: that of a tenant, which is all that a
// tenant's host answers, and that of the operators' listener. They are written by hand, as YAML, and served as JSON; what they
// say is held to the running product by a test that calls every operation. The package imports nothing of the project, so that a
// document cannot agree with a defect by being made from it.
package openapi

import (
	_ "embed"

	"github.com/goccy/go-yaml"
)

//go:embed tenant.yaml
var tenantYAML []byte

//go:embed admin.yaml
var adminYAML []byte

// Tenant returns the description of a tenant's API, as JSON. Each call converts it: keep the answer.
func Tenant() []byte { return convert(tenantYAML) }

// Admin returns the description of the operators' API, as JSON. Each call converts it: keep the answer.
func Admin() []byte { return convert(adminYAML) }

// convert returns YAML as JSON. What is embedded is converted by a test too, so that it does not fail here; nil, if it did, is
// to those who serve it as if there were no description.
func convert(source []byte) []byte {
	doc, err := yaml.YAMLToJSON(source)
	if err != nil {
		return nil
	}
	return doc
}
