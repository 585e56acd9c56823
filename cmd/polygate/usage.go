package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// usageInfo is what a tenant uses, as both APIs show it.
type usageInfo struct {
	Since    time.Time         `json:"since"`
	InFlight int64             `json:"in_flight"`
	Streams  int64             `json:"streams"`
	Requests uint64            `json:"requests"`
	Refused  map[string]uint64 `json:"refused"`
	BytesIn  uint64            `json:"bytes_in"`
	BytesOut uint64            `json:"bytes_out"`
	Limits   struct {
		RequestsPerSecond     float64 `json:"requests_per_second"`
		Burst                 float64 `json:"burst"`
		MaxConcurrentRequests float64 `json:"max_concurrent_requests"`
		MaxStreams            float64 `json:"max_streams"`
		BytesPerSecond        float64 `json:"bytes_per_second"`
		MaxStoredBytes        float64 `json:"max_stored_bytes"`
	} `json:"limits"`
	Callers        []usageCaller `json:"callers"`
	Servers        *usedOf       `json:"servers"`
	Keys           *usedOf       `json:"keys"`
	Bots           *usedOf       `json:"bots"`
	Members        *usedOf       `json:"members"`
	Authenticators *usedOf       `json:"authenticators"`
	Grants         *usedOf       `json:"grants"`
}

type usageCaller struct {
	Principal string `json:"principal"`
	InFlight  int    `json:"in_flight"`
	Requests  uint64 `json:"requests"`
	Refused   uint64 `json:"refused"`
}

type usedOf struct {
	Used  int `json:"used"`
	Limit int `json:"limit"`
}

func (u *usedOf) String() string {
	switch {
	case u == nil:
		return ""
	case u.Limit == 0:
		return strconv.Itoa(u.Used)
	}
	return fmt.Sprintf("%d of %d", u.Used, u.Limit)
}

func newUsageCommand() *cobra.Command {
	s := newScoped(true)
	s.out.more = []string{formatCSV}
	var f reportFlags
	cmd := &cobra.Command{
		Use: "usage", Short: "Show what a tenant uses against its limits, or what it used",
		Long: `Show what a tenant uses now, and its limits. Requests and bytes are counted by the replica that answers, since it began to. Who is
no admin of the tenant sees himself alone among the callers.

With --from, --to, --group-by or -o csv: what its sandboxes used in that time. Who is no admin of the tenant sees what his own used.`,
		Example: "  polygate usage\n  polygate usage --tenant team-a -o json\n  polygate usage --from 30d --group-by owner,day -o csv > usage.csv",
		Args:    cobra.NoArgs,
	}
	f.bind(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q, err := f.values(time.Now())
		if err != nil {
			return err
		}
		return s.run(cmd, func(ctx context.Context, c *client) error {
			if f.wanted(s.out.format) {
				return s.usageReport(ctx, cmd, c, q)
			}
			var u answered[usageInfo]
			if err := c.do(ctx, http.MethodGet, c.path("usage"), nil, &u); err != nil {
				return fmt.Errorf("usage: %w", err)
			}
			if s.out.isData() {
				return s.out.data(cmd.OutOrStdout(), u)
			}
			return u.is.print(cmd)
		})
	}
	s.bind(cmd)
	return cmd
}

func (u *usageInfo) print(cmd *cobra.Command) error {
	out := cmd.OutOrStdout()
	var refused []string
	for _, why := range slices.Sorted(maps.Keys(u.Refused)) {
		refused = append(refused, fmt.Sprintf("%s %d", why, u.Refused[why]))
	}
	limit := func(v float64, unit string) string {
		if v == 0 {
			return "no limit"
		}
		return "limit " + strconv.FormatFloat(v, 'f', -1, 64) + unit
	}
	rate := limit(u.Limits.RequestsPerSecond, "/s")
	if u.Limits.Burst > 0 {
		rate += fmt.Sprintf(", burst %.0f", u.Limits.Burst)
	}
	fields := [][2]string{
		{"Since", stamp(u.Since)}, {"Requests", fmt.Sprintf("%d (%s)", u.Requests, rate)},
		{"In flight", fmt.Sprintf("%d (%s)", u.InFlight, limit(u.Limits.MaxConcurrentRequests, ""))},
		{"Streams", fmt.Sprintf("%d (%s)", u.Streams, limit(u.Limits.MaxStreams, ""))},
		{"Bytes", fmt.Sprintf("%d in, %d out (%s)", u.BytesIn, u.BytesOut, limit(u.Limits.BytesPerSecond, "/s"))},
		{"Stored bytes", limit(u.Limits.MaxStoredBytes, "")},
		{"Refused", strings.Join(refused, ", ")}, {"Servers", u.Servers.String()}, {"Keys", u.Keys.String()}, {"Bots", u.Bots.String()},
		{"Members", u.Members.String()}, {"Authenticators", u.Authenticators.String()}, {"Grants", u.Grants.String()},
	}
	if err := printFields(out, fields); err != nil || len(u.Callers) == 0 {
		return err
	}
	rows := make([][]string, len(u.Callers))
	for i, one := range u.Callers {
		rows[i] = []string{one.Principal, strconv.FormatUint(one.Requests, 10), strconv.Itoa(one.InFlight), strconv.FormatUint(one.Refused, 10)}
	}
	fmt.Fprintln(out)
	return printTable(out, []string{"CALLER", "REQUESTS", "IN FLIGHT", "REFUSED"}, rows)
}

// identity is who a credential is.
type identity struct {
	Tenant  string    `json:"tenant"`
	Ref     string    `json:"ref"`
	Name    string    `json:"name"`
	Role    string    `json:"role"`
	Via     string    `json:"via"`
	Issuer  string    `json:"issuer"`
	Groups  []string  `json:"groups"`
	KeyID   string    `json:"key_id"`
	Expires time.Time `json:"expires"`
}

func newWhoamiCommand() *cobra.Command {
	s := newScoped(false)
	cmd := &cobra.Command{
		Use: "whoami", Short: "Show who the credential is, and its role",
		Long:    "Show whom the tenant's gateway takes the credential for: the principal as grants and audit records name it, its role, and how and until when it is vouched for. The role none is that of somebody who is known and no member.",
		Example: "  polygate whoami\n  polygate whoami --url https://team-a.localhost:8443 --token-file id-token -o yaml",
		Args:    cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return s.run(cmd, func(ctx context.Context, c *client) error {
			var me answered[identity]
			if err := c.do(ctx, http.MethodGet, c.path("whoami"), nil, &me); err != nil {
				return fmt.Errorf("whoami: %w", err)
			}
			return printOne(cmd, &s.out, &me, []column[identity]{
				{"PRINCIPAL", func(i *identity) string { return i.Ref }}, {"NAME", func(i *identity) string { return i.Name }},
				{"ROLE", func(i *identity) string { return i.Role }}, {"TENANT", func(i *identity) string { return i.Tenant }},
				{"VIA", func(i *identity) string { return i.Via }}, {"ISSUER", func(i *identity) string { return i.Issuer }},
				{"GROUPS", func(i *identity) string { return strings.Join(i.Groups, ", ") }},
				{"KEY ID", func(i *identity) string { return i.KeyID }}, {"EXPIRES", func(i *identity) string { return stamp(i.Expires) }},
			})
		})
	}
	s.bind(cmd)
	return cmd
}
