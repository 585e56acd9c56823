package policy

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"
)

// guarded begins the name under which a built-in function runs in a bundle that was compiled here. Tenants write
// `concat`; the compiler is made to read `bounded.concat`, which judges the operands first.
const guarded = "bounded."

// weighName is the function that the compiler puts behind whatever makes a value.
const weighName = guarded + "weigh"

// plain lists the functions that run as OPA has them: their cost is linear in operands that are bounded themselves, and
// what they make is no larger than those. An allow-list: what a later OPA adds is out until someone looked at it.
const plain = `
	eq assign neq equal lt lte gt gte internal.member_2 internal.member_3 walk print internal.print
	is_array is_boolean is_null is_number is_object is_set is_string type_name
	count startswith endswith contains indexof lower upper trim trim_left trim_right trim_prefix trim_suffix trim_space substring
	strings.reverse strings.count
	object.get object.keys array.slice array.reverse
	base64.is_valid json.is_valid regex.is_valid net.cidr_is_valid semver.is_valid uri.is_valid
	net.cidr_contains net.cidr_intersects semver.compare uuid.parse
	max min and or minus set_diff glob.quote_meta crypto.hmac.equal
`

// bounded lists the functions whose operands or results are judged. See guard.go for how.
const bounded = `
	plus mul div rem abs ceil floor round sum product to_number bits.and bits.or bits.xor bits.negate bits.lsh bits.rsh
	numbers.range numbers.range_step units.parse units.parse_bytes format_int
	concat sprintf internal.template_string replace strings.replace_n split indexof_n strings.split_n
	strings.any_prefix_match strings.any_suffix_match
	array.concat array.flatten union intersection sort
	object.filter object.remove object.subset object.union object.union_n json.filter json.remove json.patch
	json.marshal json.unmarshal base64.encode base64.decode base64url.encode base64url.encode_no_pad base64url.decode
	hex.encode hex.decode urlquery.encode urlquery.decode urlquery.encode_object urlquery.decode_object uri.parse
	crypto.sha1 crypto.sha256 crypto.hmac.sha256 crypto.hmac.sha512
	regex.match regex.find_n regex.find_all_string_submatch_n regex.replace regex.split regex.template_match glob.match
	net.cidr_contains_matches net.cidr_expand net.cidr_merge graph.reachable
	time.parse_rfc3339_ns time.parse_duration_ns
`

// legacy lists what only Rego v0 has.
const legacy = `re_match any all cast_array cast_boolean cast_null cast_object cast_set cast_string`

// legacyGuarded are those of legacy that are judged.
const legacyGuarded = `re_match`

func guardedNames() []string { return append(strings.Fields(bounded), legacyGuarded) }

// capabilities returns what a bundle of a Rego version may use: nothing that reaches out, tells the time, is random,
// prints, or parses certificates and tokens.
func capabilities(version ast.RegoVersion) *ast.Capabilities {
	all := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(version))
	may := make(map[string]bool)
	for _, name := range strings.Fields(plain + bounded + legacy) {
		may[name] = true
	}
	c := &ast.Capabilities{FutureKeywords: all.FutureKeywords, AllowNet: []string{}}
	for _, f := range all.Features {
		if f != ast.FeatureTemplateStrings { // parsing nested ones takes exponential time
			c.Features = append(c.Features, f)
		}
	}
	for _, b := range all.Builtins {
		if may[b.Name] && (version == ast.RegoV0 || !b.IsDeprecated()) {
			c.Builtins = append(c.Builtins, b)
		}
	}
	return c
}

// guards returns the declarations of the guarded functions.
func guards() map[string]*ast.Builtin {
	out := make(map[string]*ast.Builtin)
	for _, name := range guardedNames() {
		if b, ok := ast.BuiltinMap[name]; ok {
			out[guarded+name] = &ast.Builtin{Name: guarded + name, Decl: b.Decl, Relation: b.Relation}
		}
	}
	out[weighName] = &ast.Builtin{Name: weighName, Decl: types.NewFunction(types.Args(types.A), types.B)}
	return out
}
