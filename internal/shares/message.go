package shares

import (
	"encoding/json"
	"errors"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/quota/share"
)

// version is that of the messages. Readers accept later ones, whose further fields they pass over.
const version = 1

// maxItems bounds the tenants in one message, so that it stays below peer.MaxRequest.
const maxItems = 4000

// question is what a replica asks of another in one call: as of the keeper of some tenants, and for room among the replicas.
type question struct {
	V     int    `json:"v"`
	Run   string `json:"run"`           // of the asking replica
	To    string `json:"to,omitempty"`  // the run of the keeper that Lent is for; "" = it is not known, and nothing is lent
	Now   int64  `json:"now,omitempty"` // by the asking replica's clock
	Items []item `json:"items"`
	Wants []name `json:"wants,omitempty"` // tenants whose keeper the asking replica is, and whose limits the other should lend it
}

type item struct {
	name
	Need      share.Part `json:"n,omitempty"`
	InUse     share.Part `json:"f,omitempty"`
	Own       share.Part `json:"o,omitempty"`
	Smallest  int        `json:"s,omitempty"`
	Stamp     int64      `json:"at"`
	Have      int64      `json:"h,omitempty"`
	Lent      share.Part `json:"l,omitempty"`
	LentUntil int64      `json:"e,omitempty"`
}

// answer has a grant for each item, in their order.
type answer struct {
	V      int     `json:"v"`
	Run    string  `json:"run"`
	Stamp  int64   `json:"at"`   // by the keeper's clock
	Room   bool    `json:"room"` // see share.Census.Room
	Grants []grant `json:"grants"`
}

type grant struct {
	OK   bool       `json:"k,omitempty"` // the replica is the tenant's keeper
	Part share.Part `json:"p,omitempty"`
	Odd  bool       `json:"o,omitempty"`
	More bool       `json:"m,omitempty"` // somebody needs what is lent
	All  bool       `json:"a,omitempty"` // and more than that
}

func (i *item) ask() share.Ask {
	return share.Ask{
		Stamp: i.Stamp, Need: bound(i.Need), InUse: min(max(0, i.InUse), 1000*share.Whole), Own: bound(i.Own), Smallest: min(max(0, i.Smallest), 1e9),
		Have: i.Have, Lent: bound(i.Lent), LentUntil: i.LentUntil,
	}
}

// bound holds a part within the whole, whatever a message says.
func bound(p share.Part) share.Part { return min(max(p, 0), share.Whole) }

func readQuestion(body []byte) (q question, err error) {
	if err := json.Unmarshal(body, &q); err != nil {
		return q, &fault.Error{Kind: fault.Invalid, Detail: "the question about shares is not of a known form", Err: err}
	}
	if q.V < 1 || q.Run == "" || len(q.Items) > maxItems || len(q.Wants) > maxItems {
		return q, fault.New(fault.Invalid, "the question about shares has version %d, run %.40q and %d tenants: at least 1, a run, at most %d are taken", q.V, q.Run, len(q.Items), maxItems)
	}
	return q, nil
}

var errAnswer = errors.New("the answer about shares does not fit the question")

func readAnswer(body []byte, q *question) (a answer, err error) {
	if err := json.Unmarshal(body, &a); err != nil {
		return a, err
	}
	if a.V < 1 || a.Run == "" || a.Stamp <= 0 || len(a.Grants) != len(q.Items) {
		return a, errAnswer
	}
	for i := range a.Grants {
		a.Grants[i].Part = bound(a.Grants[i].Part)
	}
	return a, nil
}
