// Package archive is the form of files that hold what a registry stores: all of it (a backup), or one tenant. It is a stream of
// names and values between a manifest and a SHA-256 over everything before, so that a file which was cut off or altered on its
// way is known before any of it is used. What is in there, it does not know; what is secret was sealed before it comes here.
package archive

import (
	"errors"
	"time"
)

// Version is the version of the form. Readers accept it and the next.
const Version = 1

// The kinds of archives.
const (
	Backup = "backup" // all keys of a registry
	Tenant = "tenant" // one tenant, without what binds it to this platform
)

// Bounds of one entry, so that a file from elsewhere takes no more memory than that.
const (
	MaxName  = 4 << 10
	MaxValue = 4 << 20 // above what a store takes
	maxHead  = 1 << 20 // of a manifest and of the end
)

// magic begins every archive, so that another file is told from a damaged one.
const magic = "polygate-archive\n"

// The types of frames. A frame is its type, the lengths as uvarints, and the bytes.
const (
	frameHead  = 'M'
	frameEntry = 'K'
	frameEnd   = 'E'
)

// Manifest says what an archive is of. What the writer knows only at the end is in End.
type Manifest struct {
	V        int       `json:"v"`
	Kind     string    `json:"kind"`
	Created  time.Time `json:"created"`
	Software string    `json:"software,omitempty"` // the version of the program that wrote it
	Revision int64     `json:"revision,omitempty"` // of the store, at which all of it was read
	Tenant   string    `json:"tenant,omitempty"`   // the tenant that it is of
	UID      string    `json:"uid,omitempty"`      // and which of that id
	Secrets  bool      `json:"secrets,omitempty"`  // whether a tenant's secrets are in it
	End      End       `json:"-"`
}

// End is how an archive ends.
type End struct {
	Entries int      `json:"entries"`
	Bytes   int64    `json:"bytes"`             // of all names and values
	KEKs    []string `json:"keks,omitempty"`    // ids of the key-encryption keys that its secrets are sealed with
	Omitted []string `json:"omitted,omitempty"` // what was left out, for people
	Sum     string   `json:"-"`                 // SHA-256 of the archive, in hexadecimal: its name
}

// ErrDamaged is in the error for a file that is no archive, or no whole one.
var ErrDamaged = errors.New("the archive is damaged: use another copy of it, or make another")

// ErrNewer is in the error for an archive of a version after the next.
var ErrNewer = errors.New("the archive was written by a newer version: use that one")
