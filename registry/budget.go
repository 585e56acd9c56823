package registry

import (
	"context"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Statuser is what a Backend may be besides: one that can tell how full and how well its store is.
type Statuser interface {
	// Status asks the store. A member that does not answer is in Members with an Error; the error is that none does.
	Status(ctx context.Context) (Status, error)
}

// Status is how full and how well the store is.
type Status struct {
	Version string // of the member that was asked, or the oldest of several
	DBSize  int64  // bytes of the database's file, at the member where it is largest
	DBInUse int64  // bytes of it that hold something; the rest is used again before the file grows
	Quota   int64  // bytes of the file at which the store takes no more writes; 0 = it does not say
	Alarms  []string
	Members []Member
}

// Member is one member of the store's cluster.
type Member struct {
	Name, Version   string
	Address         string // where it was asked
	Leader, Healthy bool
	Error           string // why it is not healthy
}

// StorageReport is what this replica knows of the store and of what tenants keep in it.
type StorageReport struct {
	Sampled  time.Time // of Status; zero = never yet
	Status   Status
	Error    string              // why the last sample failed; "" = it did not, or the store cannot tell
	Problems []string            // what is wrong, in words that say the way out
	Tenants  map[tenant.ID]int64 // bytes stored of the tenants that this replica has counted
}
