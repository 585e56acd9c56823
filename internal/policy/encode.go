package policy

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"slices"

	"github.com/polygate/polygate/internal/fault"
)

// recordVersion begins the stored form.
const recordVersion = 1

// maxRecord bounds what Decode unpacks. It is above every sensible Limits.BundleBytes, as JSON escapes up to sixfold.
const maxRecord = 16 << 20

// Digest returns "sha256:…" over the bundle's content: its Rego version, its modules and the canonical form of its data.
// Every part is preceded by its length, so that no two bundles share the bytes that are hashed.
func (b *Bundle) Digest() string {
	h := sha256.New()
	write(h, b.RegoVersion)
	for _, path := range slices.Sorted(maps.Keys(b.Modules)) {
		write(h, path)
		write(h, b.Modules[path])
	}
	write(h, "data")
	write(h, canonical(b.Data))
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func write(w io.Writer, s string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(s)))
	_, _ = w.Write(n[:])
	_, _ = io.WriteString(w, s)
}

// canonical returns data with sorted keys and no space, numbers as they were written. Data that is no JSON stays as it
// is: Check refuses it.
func canonical(data json.RawMessage) string {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return string(data)
	}
	out, err := json.Marshal(v)
	if err != nil {
		return string(data)
	}
	return string(out)
}

// Encode returns the stored form of a bundle: a version byte and gzipped JSON.
func Encode(b *Bundle) ([]byte, error) {
	plain, err := json.Marshal(b)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the policy's data is no JSON")
	}
	if len(plain) > maxRecord {
		return nil, fault.New(fault.TooLarge, "the policy is %d bytes long as JSON: at most %d can be stored", len(plain), maxRecord)
	}
	var out bytes.Buffer
	out.WriteByte(recordVersion)
	z := gzip.NewWriter(&out)
	if _, err := z.Write(plain); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Decode reads the stored form. It is bounded: what unpacks to more than 16 MiB is refused before it is read.
func Decode(p []byte) (*Bundle, error) {
	if len(p) == 0 || p[0] != recordVersion {
		return nil, fault.New(fault.Internal, "the stored policy has no version that this release reads: it reads %d", recordVersion)
	}
	z, err := gzip.NewReader(bytes.NewReader(p[1:]))
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the stored policy cannot be unpacked")
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxRecord+1))
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the stored policy cannot be unpacked")
	}
	if len(plain) > maxRecord {
		return nil, fault.New(fault.Internal, "the stored policy unpacks to more than %d bytes", maxRecord)
	}
	var b Bundle
	if err := json.Unmarshal(plain, &b); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the stored policy cannot be read")
	}
	return &b, nil
}
