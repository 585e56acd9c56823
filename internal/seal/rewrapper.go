package seal

// Rewrapper is a Wrapper with several keys. *Keyring is one.
type Rewrapper interface {
	Wrapper
	// Rewrap returns an envelope of the same secret by the key that wraps now; changed is false if it is that already. The errors
	// are those of Unwrap.
	Rewrap(envelope []byte, context ...string) (next []byte, changed bool, err error)
}

var _ Rewrapper = (*Keyring)(nil)
