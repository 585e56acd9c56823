package keep

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"

	"github.com/polygate/polygate/internal/fault"
)

// maxName bounds the names of files and locks, in bytes.
const maxName = 512

// fileKey returns the key of a file, which is reversible: two names never share a key.
func fileKey(name string) (string, error) {
	if len(name) > maxName {
		return "", fault.New(fault.Invalid, "a file's name of %d bytes: at most %d are allowed", len(name), maxName)
	}
	segments := strings.Split(name, "/")
	for i, s := range segments {
		if s == "" || s == "." || s == ".." { // paths are joined by others; here they would be other names than they mean
			return "", fault.New(fault.Invalid, "%q cannot name a file: it has the part %q", name, s)
		}
		segments[i] = escape(s)
	}
	return dirFiles + "/" + strings.Join(segments, "/"), nil
}

// fileName is the reverse of fileKey.
func fileName(key string) (string, bool) {
	rest, ok := strings.CutPrefix(key, dirFiles+"/")
	if !ok {
		return "", false
	}
	name, err := url.PathUnescape(rest)
	return name, err == nil
}

// escape makes a segment of printable ASCII.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c > ' ' && c < 0x7f && c != '%' && c != '/' && c != '\\' {
			b.WriteByte(c)
			continue
		}
		const digits = "0123456789ABCDEF"
		b.WriteString("%" + digits[c>>4:c>>4+1] + digits[c&15:c&15+1])
	}
	return b.String()
}

// lockName returns the name of an owner's lock, which is one segment. certmagic makes names of URLs and addresses, which hold
// anything and may be long.
func lockName(segment, name string) string {
	e := escape(name)
	if len(e) > 128 || name == "" {
		sum := sha256.Sum256([]byte(name))
		e = "sha256-" + hex.EncodeToString(sum[:])
	}
	return lockFiles + segment + "/" + e
}
