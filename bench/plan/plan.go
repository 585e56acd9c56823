// Package plan is sizing on paper: it turns a described load and measured costs into the number of replicas, their memory, and the
// size and write rate of etcd, and says which limit binds. It is pure: it measures nothing and asks nobody. What it takes for granted
// is said in the plan itself, and with its reasons in DESIGN.md.
package plan

import "errors"

// Version of the JSON form of a plan.
const Version = 1

// Plan is what a demand needs.
type Plan struct {
	V        int      `json:"v"`
	About    string   `json:"about,omitempty"`
	Source   string   `json:"costs"`    // where the costs are from
	Machine  Machine  `json:"machine"`  // of one replica
	Replicas Replicas `json:"replicas"` // how many
	Limits   []Limit  `json:"limits"`   // what was compared, the nearest to its bound first
	CPU      Sum      `json:"cpu"`      // of one serving replica, in cores
	Memory   Sum      `json:"memory"`   // of one serving replica, in bytes
	Etcd     Etcd     `json:"etcd"`     // of the registry
	// Assumptions say in words what the figures rest on; Warnings what somebody should do something about.
	Assumptions []string `json:"assumptions"`
	Warnings    []string `json:"warnings,omitempty"`
}

// Replicas is how many replicas a demand needs.
type Replicas struct {
	Serving int    `json:"serving"` // enough for the peak
	Spare   int    `json:"spare"`   // beside them, so that as many may fail or be replaced at the peak
	Total   int    `json:"total"`
	Binds   string `json:"binds"` // the name of the limit by which it is not one fewer; of the nearest limit where one serves
}

// Limit is a bound and what the demand takes of it.
type Limit struct {
	Name     string  `json:"name"`
	Need     float64 `json:"need"`     // of one serving replica, or of the one etcd
	Have     float64 `json:"have"`     // the bound, headroom taken off
	Unit     string  `json:"unit"`     // cores, bytes, or what is counted
	Share    float64 `json:"share"`    // need / have
	Replicas int     `json:"replicas"` // that this limit alone would need; 0: more replicas do not help it
}

// Sum is an amount and what it is made of.
type Sum struct {
	Total float64 `json:"total"`
	Terms []Term  `json:"terms"` // the largest first
}

// Term is one part of a sum.
type Term struct {
	Name   string  `json:"name"`
	Amount float64 `json:"amount"`
	How    string  `json:"how"` // the product that it is, in figures
}

// Etcd is what the registry's store takes.
type Etcd struct {
	Live   Sum `json:"live"`   // bytes that are in force
	Size   Sum `json:"size"`   // bytes of the database's file in use, with superseded revisions until they are compacted
	Writes Sum `json:"writes"` // transactions that change something, a second at the peak
	Puts   Sum `json:"puts"`   // keys that they put or delete, a second at the peak
}

// ErrNone is wrapped by the error of a demand that no number of replicas can serve.
var ErrNone = errors.New("no number of replicas is enough")
