package sandbox

import (
	"strings"

	"github.com/polygate/polygate/internal/fault"
)

// image is an image reference, taken apart and brought into one spelling.
type image struct {
	repository string // with its registry: docker.io/library/nginx
	tag        string // "" = none was given
	digest     string // "" = none was given
}

// String returns the one spelling of the reference.
func (i image) String() string {
	s := i.repository
	if i.tag != "" {
		s += ":" + i.tag
	}
	if i.digest != "" {
		s += "@" + i.digest
	}
	return s
}

const maxImageLen = 255

// parseImage reads "nginx", "team/agent:1", "registry.example:5000/team/agent@sha256:…". It is stricter than what runs images, so
// that what is compared with an allow-list cannot mean something else to a cluster: no upper case in a repository, no empty or
// dotted path parts, no second tag.
func parseImage(s string) (image, error) {
	bad := func(why string) (image, error) {
		return image{}, fault.New(fault.Invalid, "image %q %s: write registry.example/team/agent:tag or …@sha256:<digest>", clip(s), why)
	}
	if s == "" || len(s) > maxImageLen {
		return bad("is empty or too long")
	}
	var i image
	rest, digest, digested := strings.Cut(s, "@")
	if digested {
		if !isDigest(digest) {
			return bad("has a digest that is not sha256: and 64 hex digits")
		}
		i.digest = digest
	}
	if colon := strings.LastIndexByte(rest, ':'); colon > strings.LastIndexByte(rest, '/') {
		rest, i.tag = rest[:colon], rest[colon+1:]
		if !isTag(i.tag) {
			return bad("has a tag that is none")
		}
	}
	var ok bool
	if i.repository, ok = repository(rest); !ok {
		return bad("is no image reference")
	}
	return i, nil
}

// repository brings a repository without tag into one spelling: with its registry, that in lower case.
func repository(s string) (string, bool) {
	host, path := "docker.io", s
	if first, rest, ok := strings.Cut(s, "/"); ok && isRegistry(first) {
		host, path = strings.ToLower(first), rest
		if !checkRegistry(host) {
			return "", false
		}
	}
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	for part := range strings.SplitSeq(path, "/") {
		if !isPathPart(part) {
			return "", false
		}
	}
	if host == "docker.io" && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	return host + "/" + path, true
}

// isRegistry says whether the first part of a reference names a registry. Tools take one for it by its capitals, too, which would be
// another image once it is written in small letters: here that is refused.
func isRegistry(first string) bool {
	return strings.ContainsAny(first, ".:") || strings.ToLower(first) == "localhost"
}

func checkRegistry(host string) bool {
	name, port, ported := strings.Cut(host, ":")
	if ported && (!allDigits(port) || len(port) > 5) || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// isPathPart says whether s is [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*.
func isPathPart(s string) bool {
	alnum := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	if s == "" || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if alnum(s[i]) {
			i++
			continue
		}
		start := i
		for !alnum(s[i]) { // ends: the last byte is alnum
			i++
		}
		if sep := s[start:i]; sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
			return false
		}
	}
	return true
}

func isTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-') {
			return false
		}
	}
	return true
}

func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

// allows says whether an entry of an allow-list lets a repository be run. An entry is a repository, or a prefix that ends in "/".
// An entry that cannot be read allows nothing.
func allows(entry, repo string) bool {
	if prefix, ok := strings.CutSuffix(entry, "/"); ok {
		if !strings.Contains(prefix, "/") && isRegistry(prefix) { // a whole registry
			host := strings.ToLower(prefix)
			return checkRegistry(host) && strings.HasPrefix(repo, host+"/")
		}
		p, ok := repository(prefix + "/x")
		return ok && strings.HasPrefix(repo, strings.TrimSuffix(p, "x"))
	}
	e, ok := repository(entry)
	return ok && e == repo
}
