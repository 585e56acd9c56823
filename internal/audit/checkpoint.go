package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// CheckpointChain is the chain of the checkpoints. Like PlatformChain it is no tenant id.
const CheckpointChain = "_checkpoint"

// The actions of the checkpoints' chain.
const (
	ActionCheckpoint = "audit.checkpoint" // the heads of all chains at this point of the log, as one hash, signed
	ActionHeads      = "audit.heads"      // some of these heads, one by one; only before the checkpoint that a segment begins with
)

// headsPerLine is how many heads one line lists: with the longest names they stay below MaxLine.
const headsPerLine = 256

// Signer signs checkpoints with Ed25519. The drain waits for it: it must not take long.
type Signer interface {
	Sign(message []byte) ([]byte, error)
	KeyID() string
	Public() ed25519.PublicKey
}

// NewSigner returns a Signer with the key made from a seed of 32 bytes.
func NewSigner(seed []byte) (Signer, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("audit: the seed of the signing key has %d bytes: make one of %d", len(seed), ed25519.SeedSize)
	}
	return seedSigner(ed25519.NewKeyFromSeed(seed)), nil
}

type seedSigner ed25519.PrivateKey

func (s seedSigner) Sign(message []byte) ([]byte, error) {
	return ed25519.Sign(ed25519.PrivateKey(s), message), nil
}

func (s seedSigner) KeyID() string { return KeyID(s.Public()) }

func (s seedSigner) Public() ed25519.PublicKey {
	return ed25519.PrivateKey(s).Public().(ed25519.PublicKey)
}

// KeyID returns the name of a public key: the first 16 hex digits of its SHA-256.
func KeyID(key ed25519.PublicKey) string {
	h := sha256.Sum256(key)
	return hex.EncodeToString(h[:8])
}

// headsRoot is the root of the Merkle tree over the heads of all chains but the one that the checkpoint is in, in the order
// of their names. It is a tree and no plain hash so that one tenant can later be shown its own head alone. Leaves and nodes are
// told apart by their first byte, as in RFC 6962 §2.1, so that no node can be given out as a leaf.
func headsRoot(heads map[string]Head, own string) (root [sha256.Size]byte, chains int) {
	var level [][sha256.Size]byte
	for _, name := range slices.Sorted(maps.Keys(heads)) {
		if h := heads[name]; name != own && h.Seq > 0 {
			level = append(level, leaf(name, h))
		}
	}
	if chains = len(level); chains == 0 {
		return root, 0
	}
	for len(level) > 1 {
		next := level[:0]
		for i := 0; i < len(level); i += 2 {
			if i+1 == len(level) {
				next = append(next, level[i])
			} else {
				next = append(next, node(level[i], level[i+1]))
			}
		}
		level = next
	}
	return level[0], chains
}

func leaf(chain string, h Head) [sha256.Size]byte {
	var frame [1 + 4 + maxChain + 8 + sha256.Size]byte
	b := append(frame[:0], 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(chain)))
	b = append(b, chain...)
	b = binary.BigEndian.AppendUint64(b, h.Seq)
	return sha256.Sum256(append(b, h.Hash[:]...))
}

func node(l, r [sha256.Size]byte) [sha256.Size]byte {
	b := append(make([]byte, 0, 1+2*sha256.Size), 1)
	b = append(b, l[:]...)
	return sha256.Sum256(append(b, r[:]...))
}

// checkpoint is what a line of CheckpointChain holds beside the fields of an entry.
type checkpoint struct {
	Chains   int    `json:"chains"`             // how many chains have a head
	Root     string `json:"root"`               // headsRoot, in hex
	Listed   bool   `json:"listed,omitempty"`   // the lines before list these heads: a segment begins here
	Previous string `json:"previous,omitempty"` // the name of the segment before, if one begins here
	KeyID    string `json:"key_id,omitempty"`   // of the key that signed
	Sig      []byte `json:"sig,omitempty"`      // over message
}

// checkpointEntry is the entry of a line of CheckpointChain. As an Entry it can be read by whoever reads entries.
type checkpointEntry struct {
	Entry
	Checkpoint *checkpoint     `json:"checkpoint,omitempty"`
	Heads      map[string]Head `json:"heads,omitempty"`
}

// message is what is signed: the checkpoint, when and by whom it was made, and its place in the chain of checkpoints,
// which holds the hash of the one before.
func (e *checkpointEntry) message(at Head) []byte {
	b := append([]byte(nil), "polygate audit checkpoint 1"...)
	b = binary.BigEndian.AppendUint64(b, at.Seq+1)
	b = append(b, at.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Time.UnixNano()))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Checkpoint.Chains))
	listed := byte(0)
	if e.Checkpoint.Listed {
		listed = 1
	}
	b = append(b, listed)
	for _, s := range []string{e.Checkpoint.Root, e.Checkpoint.Previous, e.Replica, e.Checkpoint.KeyID} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

// sign adds the signature of the checkpoint as the next of at. Without a signer it does nothing.
func (e *checkpointEntry) sign(s Signer, at Head) error {
	if s == nil {
		return nil
	}
	e.Checkpoint.KeyID = plain(s.KeyID())
	sig, err := s.Sign(e.message(at))
	if err == nil && len(sig) != ed25519.SignatureSize {
		err = errors.New("the signature has a wrong length")
	}
	if err != nil {
		e.Checkpoint.KeyID = ""
		return fmt.Errorf("sign the audit checkpoint: %w", err)
	}
	e.Checkpoint.Sig = sig
	return nil
}

// plain returns s as it comes back from the log.
func plain(s string) string { return clip(strings.ToValidUTF8(s, "\ufffd"), maxField) }

// judge says what is wrong with the signature under keys; "" if nothing is.
func (e *checkpointEntry) judge(keys []ed25519.PublicKey, at Head) string {
	if len(e.Checkpoint.Sig) == 0 {
		return "unsigned checkpoint"
	}
	m := e.message(at)
	for _, k := range keys {
		if len(k) == ed25519.PublicKeySize && ed25519.Verify(k, m, e.Checkpoint.Sig) {
			return ""
		}
	}
	return fmt.Sprintf("wrongly signed checkpoint: it names the key %q, and no given key made its signature", clip(e.Checkpoint.KeyID, 64))
}

// encode returns the JSON of e, escaped like every entry.
func (e checkpointEntry) encode() []byte {
	b, err := json.Marshal(&e)
	if err != nil { // no field can fail
		panic("audit: encode checkpoint: " + err.Error())
	}
	return ascii(b)
}

// parseCheckpoint reads the entry of a line of CheckpointChain. A field that we do not know is refused: it would be in
// nobody's signature.
func parseCheckpoint(entry []byte) (*checkpointEntry, error) {
	var e checkpointEntry
	d := json.NewDecoder(bytes.NewReader(entry))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return nil, fmt.Errorf("%w: no checkpoint: %w", ErrMalformed, err)
	}
	if e.Action == ActionCheckpoint && e.Checkpoint != nil && e.Heads == nil || e.Action == ActionHeads && e.Checkpoint == nil {
		return &e, nil
	}
	return nil, fmt.Errorf("%w: neither a checkpoint nor a list of heads", ErrMalformed)
}

// scribe makes the lines of CheckpointChain.
type scribe struct {
	signer Signer
	note   func(action, resource string) Entry
	chain  string // of the checkpoints, of this writer
}

// entry returns an entry in the form in which a reader gets it back, since that is what the signature is checked over.
func (s scribe) entry(action string) Entry {
	e := s.note(action, "")
	e.Replica = strings.ToValidUTF8(e.Replica, "\ufffd")
	return bounded(e)
}

// checkpoint returns the line that follows at.
func (s scribe) checkpoint(at Head, heads map[string]Head, listed bool, previous string) (Line, error) {
	root, n := headsRoot(heads, s.chain)
	e := checkpointEntry{Entry: s.entry(ActionCheckpoint),
		Checkpoint: &checkpoint{Chains: n, Root: hex.EncodeToString(root[:]), Listed: listed, Previous: plain(previous)}}
	err := e.sign(s.signer, at)
	return at.Next(s.chain, e.encode()), err
}

// header returns the lines that a segment begins with: the heads of all chains, and the checkpoint over them. Whoever has
// only this segment and what follows can verify from here on. An error is of the signature: the header is whole but unsigned.
func (s scribe) header(at Head, heads map[string]Head, previous string) ([]Line, error) {
	var out []Line
	names := slices.Sorted(maps.Keys(heads))
	names = slices.DeleteFunc(names, func(n string) bool { return n == s.chain || heads[n].Seq == 0 })
	for part := range slices.Chunk(names, headsPerLine) {
		e := checkpointEntry{Entry: s.entry(ActionHeads), Heads: make(map[string]Head, len(part))}
		for _, n := range part {
			e.Heads[n] = heads[n]
		}
		l := at.Next(s.chain, e.encode())
		out, at = append(out, l), l.Head()
	}
	l, err := s.checkpoint(at, heads, true, previous)
	return append(out, l), err
}
