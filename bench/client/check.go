package client

import "bytes"

// marker begins every canary.
const marker = "canary="

// judge checks an answer with the right status: the tenant's own canary once, and no other. A canary of another tenant's is Foreign.
func (c *Client) judge(t *target, body []byte) error {
	if t.Canary == "" {
		return nil
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
