package fault

import "strings"

// Hide returns err, or, should its text quote a secret, an error of its kind that says instead. Whoever checks a secret should
// not put it in an error; but errors go to the caller and to the log, and one mistake would be enough. A quote is 16 characters
// that follow one another in a line of the secret; lines that frame PEM are none.
func Hide(err error, instead string, secrets ...string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, s := range secrets {
		if quotes(text, s) {
			e := From(err)
			return New(e.Kind, "%s", instead).After(e.RetryAfter)
		}
	}
	return err
}

func quotes(text, secret string) bool {
	const piece = 16
	for line := range strings.Lines(secret) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "-----") {
			continue
		}
		for i := 0; i+piece <= len(line); i++ {
			if strings.Contains(text, line[i:i+piece]) {
				return true
			}
		}
	}
	return false
}
