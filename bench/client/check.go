package client

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// marker begins every canary.
const marker = "canary="

// canaries are those of all tenants, made ready to be looked for.
type canaries struct {
	none   bool    // no tenant has one
	worded bool    // they are any words, rather than marked ones
	marked []owned // sorted; none is the beginning of another; empty where they are words
}

// owned is a canary with its tenant's name.
type owned struct{ canary, tenant string }

// judge checks an answer with the right status: the tenant's own canary once, and no other. A canary of another tenant's is Foreign.
func (c *Client) judge(t *target, body []byte) error {
	if c.canaries.worded {
		return c.judgeWords(t, body)
	}
	if err := c.foreign(t, body); err != nil || t.Canary == "" {
		return err
	}
	i := bytes.Index(body, []byte(marker))
	if i < 0 {
		return lacking(t, body)
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

// lacking is an answer without the tenant's canary.
func lacking(t *target, body []byte) error {
	return wrong(t, "the answer lacks the tenant's canary; it begins %q: look what answers there", t.excerpt(body))
}

// foreign looks for canaries that are not the tenant's, in answers of any status, and also to tenants that have none of their own.
func (c *Client) foreign(t *target, body []byte) error {
	if c.canaries.none {
		return nil
	}
	if c.canaries.worded {
		return c.foreignWords(t, body)
	}
	for {
		i := bytes.Index(body, []byte(marker))
		if i < 0 {
			return nil
		}
		if body = body[i:]; !t.owns(body) {
			if err := c.stranger(t, body); err != nil {
				return err
			}
		}
		body = body[len(marker):]
	}
}

// owns says whether a text begins with the tenant's canary, or is what is left of it where an answer was cut off.
func (t *target) owns(text []byte) bool {
	n := min(len(text), len(t.Canary))
	return n > 0 && string(text[:n]) == t.Canary[:n]
}

// stranger finds whose canary a text begins with. To a tenant without one only those of others are foreign: what else looks like one may
// well be its answer.
func (c *Client) stranger(t *target, text []byte) error {
	if o, found := c.canaries.owner(text); found {
		return &Foreign{Tenant: t.Name, Other: o.tenant, Canary: o.canary}
	}
	if t.Canary == "" {
		return nil
	}
	return &Foreign{Tenant: t.Name, Canary: string(text[:min(len(text), len(t.Canary))])}
}

// owner returns the canary that a text begins with. There is one at most, and it is the last that does not sort behind the text.
func (k *canaries) owner(text []byte) (owned, bool) {
	i, exact := slices.BinarySearchFunc(k.marked, text, func(o owned, text []byte) int { return bytes.Compare([]byte(o.canary), text) })
	if !exact {
		i--
	}
	if i < 0 || !bytes.HasPrefix(text, []byte(k.marked[i].canary)) {
		return owned{}, false
	}
	return k.marked[i], true
}

// judgeWords is judge where canaries are any words, such as those that an installation's answers hold anyway.
func (c *Client) judgeWords(t *target, body []byte) error {
	if err := c.foreignWords(t, body); err != nil {
		return err
	}
	if !bytes.Contains(body, []byte(t.Canary)) { // all hold the empty one
		return lacking(t, body)
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

// newCanaries makes the tenants' canaries ready, and refuses those that could be mistaken for another's.
func newCanaries(tenants []Tenant) (canaries, error) {
	var k canaries
	for _, t := range tenants {
		if t.Canary != "" {
			k.marked = append(k.marked, owned{canary: t.Canary, tenant: t.Name})
			k.worded = k.worded || !strings.HasPrefix(t.Canary, marker)
		}
	}
	k.none = len(k.marked) == 0
	if !k.worded {
		return k, sortMarked(k.marked)
	}
	if len(tenants) > mostWords {
		return k, fmt.Errorf("%d tenants: begin each canary with %q where there are more than %d", len(tenants), marker, mostWords)
	}
	for i, a := range k.marked {
		for j, b := range k.marked {
			if i != j && strings.Contains(b.canary, a.canary) {
				return k, mistaken(a, b)
			}
		}
	}
	k.marked = nil
	return k, nil
}

// sortMarked sorts marked canaries. The marker stands at their beginning only, so that one is a part of another only as its beginning,
// and then of the next in order: 100,000 of them are compared in no time.
func sortMarked(list []owned) error {
	slices.SortFunc(list, func(a, b owned) int { return cmp.Compare(a.canary, b.canary) })
	for i, o := range list {
		if o.canary == marker || strings.Contains(o.canary[1:], marker) {
			return fmt.Errorf("tenant %s: canary %q: write %q once, and behind it what only this tenant's answers hold", o.tenant, o.canary, marker)
		}
		if i > 0 && strings.HasPrefix(o.canary, list[i-1].canary) {
			return mistaken(list[i-1], o)
		}
	}
	return nil
}

// mistaken is a canary that is a part of another.
func mistaken(a, b owned) error {
	return fmt.Errorf("tenant %s: canary %q is a part of that of %s, %q: an answer of one would be taken for the other's; end each with a sign "+
		"that no name holds, such as ;", a.tenant, a.canary, b.tenant, b.canary)
}
