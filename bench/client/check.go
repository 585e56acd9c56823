package client

import (
	"bytes"
	"fmt"
	"strings"
)

// marker begins every canary.
const marker = "canary="

// judge checks an answer with the right status: the tenant's own canary once, and no other. A canary of another tenant's is Foreign.
func (c *Client) judge(t *target, body []byte) error {
	if t.Canary == "" {
		return nil
	}
	if c.worded {
		return c.judgeWords(t, body)
	}
	i := bytes.Index(body, []byte(marker))
	if i < 0 {
		return wrong(t, "the answer lacks the tenant's canary; it begins %q: look what answers there", body[:min(len(body), 200)])
	}
	if err := c.foreign(t, body[i:]); err != nil {
		return err
	}
	rest, found := bytes.CutPrefix(body[i:], []byte(t.Canary))
	if !found {
		return wrong(t, "the answer ends within the tenant's canary: it was cut off")
	}
	if bytes.Contains(rest, []byte(marker)) {
		return wrong(t, "the answer holds the tenant's canary more than once: look what answers there")
	}
	return nil
}

// foreign looks for canaries that are not the tenant's, in answers of any status.
func (c *Client) foreign(t *target, body []byte) error {
	if t.Canary == "" {
		return nil
	}
	if c.worded {
		return c.foreignWords(t, body)
	}
	for {
		i := bytes.Index(body, []byte(marker))
		if i < 0 {
			return nil
		}
		got := body[i:min(i+len(t.Canary), len(body))]
		if len(got) == len(t.Canary) && string(got) != t.Canary {
			return c.stranger(t, string(got))
		}
		body = body[i+len(marker):]
	}
}

// judgeWords is judge where canaries are any words, such as those that an installation's answers hold anyway.
func (c *Client) judgeWords(t *target, body []byte) error {
	if err := c.foreignWords(t, body); err != nil {
		return err
	}
	if !bytes.Contains(body, []byte(t.Canary)) {
		return wrong(t, "the answer lacks the tenant's canary; it begins %q: look what answers there", body[:min(len(body), 200)])
	}
	return nil
}

// foreignWords looks for every other tenant's words: they have nothing in common to look for.
func (c *Client) foreignWords(t *target, body []byte) error {
	for i := range c.targets {
		if other := &c.targets[i]; other != t && other.Canary != "" && bytes.Contains(body, []byte(other.Canary)) {
			return &Foreign{Tenant: t.Name, Other: other.Name, Canary: other.Canary}
		}
	}
	return nil
}

// mostWords is how many tenants may have words for canaries: each answer is searched for all of them.
const mostWords = 1000

// wordCanaries tells whether the canaries are any words, rather than marked ones, and refuses those that could be mistaken.
func wordCanaries(tenants []Tenant) (bool, error) {
	worded := false
	for _, t := range tenants {
		worded = worded || t.Canary != "" && !strings.HasPrefix(t.Canary, marker)
	}
	if !worded {
		return false, nil
	}
	if len(tenants) > mostWords {
		return true, fmt.Errorf("%d tenants: begin each canary with %q where there are more than %d", len(tenants), marker, mostWords)
	}
	for i, a := range tenants {
		for j, b := range tenants {
			if i != j && a.Canary != "" && strings.Contains(b.Canary, a.Canary) {
				return true, fmt.Errorf("tenant %s: canary %q is a part of that of %s, %q: an answer of one would be taken for the other's", a.Name, a.Canary, b.Name, b.Canary)
			}
		}
	}
	return true, nil
}

// stranger finds whose canary it is.
func (c *Client) stranger(t *target, canary string) error {
	f := &Foreign{Tenant: t.Name, Canary: canary}
	for i := range c.targets {
		if c.targets[i].Canary == canary {
			f.Other = c.targets[i].Name
		}
	}
	return f
}
