package vgw

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of a bot's keys. Two at a time are what a rotation needs: the one in use and its successor.
const (
	maxBotKeys  = 2
	botKeyLife  = 90 * 24 * time.Hour // where the body says nothing
	maxOverlap  = 30 * 24 * time.Hour // of retire_others_in_seconds
	suffixBytes = 8                   // of a key's name that was made up
)

func botRoutes() []route {
	return []route{
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/bots", Action: authz.BotList, Summary: "the accounts of programs, with their keys"}, handle: listBots},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/bots", Owner: exchange.OwnerAny, Action: authz.BotCreate, Summary: "make an account of a program"}, handle: createBot},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/bots/{bot}", Owner: exchange.OwnerAny, Action: authz.BotRead, Summary: "one bot, by name or id"}, handle: getBot},
		{Route: exchange.Route{Method: "DELETE", Pattern: "/api/v1/bots/{bot}", Owner: exchange.OwnerAny, Action: authz.BotDelete, Summary: "remove a bot with its keys"}, handle: deleteBot},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/bots/{bot}/keys", Owner: exchange.OwnerAny, Action: authz.KeyCreate, Summary: "make a key of a bot, which is shown once; two may be valid at a time"}, handle: createBotKey},
	}
}

// botView is a bot as administrators see it.
type botView struct {
	ID              string        `json:"id"`
	Name            string        `json:"name"`
	Ref             string        `json:"ref"`
	Role            string        `json:"role"`
	Source          tenant.Source `json:"source"`
	File            string        `json:"file,omitzero"`
	Created         time.Time     `json:"created"`
	Updated         time.Time     `json:"updated"`
	By              string        `json:"created_by,omitzero"`
	LastUsed        time.Time     `json:"last_used,omitzero"`
	Keys            []keyView     `json:"keys"`
	ResourceVersion string        `json:"resource_version"` // also the ETag
}

func (c *call) botView(r *tenant.Record, b *tenant.Bot, used map[string]time.Time) botView {
	v := botView{
		ID: b.ID, Name: b.Name, Ref: botRef(b.ID), Role: b.Role.String(), Source: b.Source, Created: b.Created, Updated: b.Created,
		By: b.By, Keys: []keyView{}, ResourceVersion: strconv.FormatInt(botVersion(b), 10),
	}
	for i := range r.Keys {
		if k := &r.Keys[i]; k.Bot == b.ID {
			v.Keys = append(v.Keys, c.keyView(r, k, used))
			v.LastUsed = later(v.LastUsed, used[k.ID])
		}
	}
	if b.Source == tenant.SourceFile {
		v.File = r.File
	}
	return v
}

func botRef(id string) string { return tenant.Principal{Kind: tenant.KindBot, ID: id}.Ref() }

func botVersion(b *tenant.Bot) int64 { return max(b.Created.UnixMicro(), 1) }

func listBots(ctx context.Context, c *call) (exchange.Decision, error) {
	permit, may, err := admitList(c, authz.BotList, "bot")
	if err != nil {
		return nil, err
	}
	var bots []*tenant.Bot
	for i := range c.e.Record.Bots {
		if may {
			bots = append(bots, &c.e.Record.Bots[i])
		}
	}
	var used map[string]time.Time
	if len(bots) > 0 {
		used = c.lastUsed(ctx)
	}
	slices.SortFunc(bots, func(a, b *tenant.Bot) int { return strings.Compare(a.Name, b.Name) })
	return answerList(c, permit, bots, func(b *tenant.Bot) string { return b.Name }, func(b *tenant.Bot) botView {
		return c.botView(c.e.Record, b, used)
	})
}

func noBot(name string) error { return fault.New(fault.NotFound, "no bot %q", name) }

func getBot(ctx context.Context, c *call) (exchange.Decision, error) {
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.BotRead, Resource: "bot/" + label(c.params[0])})
	if err != nil {
		return nil, err
	}
	b, ok := c.e.Record.BotByName(c.params[0])
	if !ok {
		err = noBot(c.params[0])
	}
	permit.Done(err)
	if err != nil {
		return nil, err
	}
	return c.replyBot(ctx, 200, c.e.Record, b)
}

func (c *call) replyBot(ctx context.Context, status int, r *tenant.Record, b *tenant.Bot) (exchange.Decision, error) {
	var used map[string]time.Time
	if status == 200 {
		used = c.lastUsed(ctx)
	}
	d, err := reply(status, c.botView(r, b, used))
	if err != nil {
		return nil, err
	}
	d.Header.Set("Etag", etag(botVersion(b)))
	if status == 201 {
		d.Header.Set("Location", c.r.Base+"/api/v1/bots/"+b.ID)
	}
	return d, nil
}

// botBody is the body of POST /api/v1/bots.
type botBody struct {
	Name string `json:"name"`
	Role string `json:"role"` // "" = editor
}

func createBot(ctx context.Context, c *call) (exchange.Decision, error) {
	body, err := decode[botBody](c)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.BotCreate, Resource: "bot/" + label(body.Name)})
	if err != nil {
		return nil, err
	}
	err = checkName(body.Name)
	var role tenant.Role
	if err == nil {
		role, err = c.grantable(body.Role)
	}
	if err != nil {
		return nil, permit.Settle(err)
	}
	b := tenant.Bot{
		ID: uuid.NewString(), Name: body.Name, Role: role, Source: tenant.SourceAPI, Created: c.now().UTC(), By: c.r.Visit.Principal().Ref(),
	}
	e, err := c.change(ctx, permit, addBot(b))
	if err != nil {
		return nil, err
	}
	return c.replyBot(ctx, 201, e.Record, &b)
}

func addBot(b tenant.Bot) func(*tenant.Record) error {
	return func(r *tenant.Record) error {
		if have, ok := r.BotByName(b.Name); ok {
			if err := declared(r, have.Source, "bot", have.Name); err != nil {
				return err
			}
			return fault.New(fault.Conflict, "there is a bot %q already", b.Name)
		}
		if n := len(r.Bots); n >= tenant.MaxBots {
			return fault.New(fault.Conflict, "there are %d bots, the most that a tenant may have", n)
		}
		r.Bots = append(r.Bots, b)
		return nil
	}
}

func deleteBot(ctx context.Context, c *call) (exchange.Decision, error) {
	return c.remove(ctx, authz.BotDelete, "bot/", dropBot)
}

func dropBot(name string, pre precondition) func(*tenant.Record) error {
	return func(r *tenant.Record) error {
		b, ok := r.BotByName(name)
		if !ok {
			return noBot(name)
		}
		if err := declared(r, b.Source, "bot", b.Name); err != nil {
			return err
		}
		if !pre.allows(botVersion(b)) {
			return stale(botVersion(b))
		}
		id := b.ID
		r.Keys = slices.DeleteFunc(r.Keys, func(k tenant.Key) bool { return k.Bot == id })
		r.Bots = slices.DeleteFunc(r.Bots, func(b tenant.Bot) bool { return b.ID == id })
		return nil
	}
}

// botKeyBody is the body of POST /api/v1/bots/{bot}/keys.
type botKeyBody struct {
	Name      string     `json:"name"` // "" = one is made up
	ExpiresIn *int64     `json:"expires_in_seconds"`
	Expires   *time.Time `json:"expires"`
	Retire    *int64     `json:"retire_others_in_seconds"` // the bot's other keys end then, at the latest
}

func createBotKey(ctx context.Context, c *call) (exchange.Decision, error) {
	body, err := decode[botKeyBody](c)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.KeyCreate, Resource: "bot/" + label(c.params[0]) + "/key"})
	if err != nil {
		return nil, err
	}
	key, secret, err := c.newBotKey(body)
	if err != nil {
		return nil, permit.Settle(err)
	}
	e, err := c.change(ctx, permit, func(r *tenant.Record) error { return c.rotate(r, &key, body) })
	if err != nil {
		return nil, err
	}
	return c.replyKey(e, &key, secret)
}

// newBotKey makes a key as far as it can be made without the bot.
func (c *call) newBotKey(body botKeyBody) (tenant.Key, string, error) {
	now := c.now().UTC()
	ends, err := term{body.ExpiresIn, body.Expires, "expires"}.end(now, keySpan())
	if err == nil && body.Name != "" {
		err = checkName(body.Name)
	}
	if most := int64(maxOverlap / time.Second); err == nil && body.Retire != nil && (*body.Retire < 0 || *body.Retire > most) {
		err = fault.New(fault.Invalid, "retire_others_in_seconds must be 0 to %d", most)
	}
	if err != nil {
		return tenant.Key{}, "", err
	}
	if ends.IsZero() {
		ends = now.Add(botKeyLife)
	}
	secret, hash := authn.NewKey()
	return tenant.Key{ID: uuid.NewString(), Name: body.Name, Hash: hash, Expires: ends, Source: tenant.SourceAPI, Created: now}, secret, nil
}

// rotate gives the bot its new key, and ends the others early if the body says so. It ends no admin's keys: to give a bot a
// key is to grant its role, and nobody here grants admin.
func (c *call) rotate(r *tenant.Record, key *tenant.Key, body botKeyBody) error {
	b, ok := r.BotByName(c.params[0])
	if !ok {
		return noBot(c.params[0])
	}
	if err := c.mayGrant(b.Role); err != nil {
		return err
	}
	key.Bot, key.Role = b.ID, b.Role
	if body.Name == "" {
		short := b.Name[:min(len(b.Name), tenant.MaxNameLen-suffixBytes-1)]
		key.Name = strings.ToValidUTF8(short, "") + "-" + key.ID[:suffixBytes]
	}
	if body.Retire != nil {
		if err := retire(r, b.ID, c.now().UTC().Add(time.Duration(*body.Retire)*time.Second)); err != nil {
			return err
		}
	}
	valid := 0
	r.Keys = slices.DeleteFunc(r.Keys, func(k tenant.Key) bool {
		dead := k.Bot == b.ID && k.Expired(c.now())
		if k.Bot == b.ID && !dead {
			valid++
		}
		return dead && k.Source == tenant.SourceAPI
	})
	if valid >= maxBotKeys {
		return fault.New(fault.Conflict, "bot %q has %d valid keys, the most that it may have at a time: revoke one, or set retire_others_in_seconds", b.Name, valid)
	}
	return c.addKey(*key)(r)
}

// retire has the keys of a bot end at a moment, where they would live longer.
func retire(r *tenant.Record, bot string, at time.Time) error {
	for i := range r.Keys {
		k := &r.Keys[i]
		if k.Bot != bot || !k.Expires.After(at) {
			continue
		}
		if err := declared(r, k.Source, "key", k.Name); err != nil {
			return err
		}
		k.Expires = at
	}
	return nil
}
