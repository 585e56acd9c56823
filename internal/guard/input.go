package guard

import (
	"strings"

	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

// input returns what a policy is told of an effect. Whatever it shares with the visit is read only.
func (v *Visit) input(who *tenant.Principal, e Effect) *policy.Input {
	in := &policy.Input{
		Principal: policy.Principal{Kind: string(who.Kind), ID: who.ID, Name: who.Name, Via: string(who.Via)},
		Role:      who.Role,
		Action:    string(e.Action),
		Resource:  resourceOf(e, v.request.Path),
		Request: policy.Request{
			Method: v.request.Method, Path: v.request.Path, Host: v.request.Host, Remote: v.remote(), ID: v.request.ID,
		},
	}
	if c := who.Claims; c != nil {
		in.Principal.Issuer = c.Issuer
		in.Groups, in.Scopes, in.Attributes = c.Groups, c.Scopes, c.Attributes
	}
	return in
}

// resourceOf reads an effect's resource: "whoami" is a type alone; "key/ci" is a type and a name; "server/a/stream" is a
// part of the server a; "server/a/tool/b/c" is the tool "b/c" of the server a. A name may hold slashes (a resource's URI
// does), so only its beginning is read.
func resourceOf(e Effect, requestPath string) policy.Resource {
	r := policy.Resource{Owner: e.Object.Owner}
	var rest string
	r.Type, rest, _ = strings.Cut(e.Resource, "/")
	if r.Type != "server" {
		r.Name = rest
		if r.Type == "gateway" { // a relay: the whole path goes to the tenant's own gateway
			r.Path = requestPath
		}
	} else {
		r.Name, rest, _ = strings.Cut(rest, "/")
		part, name, deeper := strings.Cut(rest, "/")
		switch {
		case deeper:
			r.Labels = map[string]string{"server": r.Name}
			r.Type, r.Name = part, name
		case part != "":
			r.Path = part
		}
	}
	if r.Type == "" {
		r.Type = e.Object.Type
	}
	if e.Object.ID != "" {
		if r.Labels == nil {
			r.Labels = make(map[string]string, 1)
		}
		r.Labels["id"] = e.Object.ID
	}
	return r
}
