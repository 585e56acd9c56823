package credential

import "strings"

const (
	masked = "[masked]"
	piece  = 8 // bytes of a secret that tell something of it; a shorter secret is masked as a whole
)

// Mask replaces secrets in a text that somebody else wrote, such as the beginning of an answer: a server that echoes headers would else
// have a token printed. Pieces of a secret are masked too, since texts are cut.
func Mask(text string, secrets ...string) string {
	for _, s := range secrets {
		text = maskOne(text, s)
	}
	return text
}

// maskOne replaces a secret and its pieces.
func maskOne(text, secret string) string {
	least := min(piece, len(secret))
	if least == 0 {
		return text
	}
	var out strings.Builder
	for len(text) > 0 {
		n := least
		if len(text) < n || !strings.Contains(secret, text[:n]) {
			out.WriteByte(text[0])
			text = text[1:]
			continue
		}
		for n < len(text) && strings.Contains(secret, text[:n+1]) {
			n++
		}
		out.WriteString(masked)
		text = text[n:]
	}
	return out.String()
}
