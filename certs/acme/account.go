package acme

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net/url"
	"path"
	"strings"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"github.com/polygate/polygate/internal/tenant"
)

const (
	storedVersion = 1
	maxStored     = 64 << 10 // bytes of a stored value
)

// storedAccount is what is kept of an account, in one value, so that key and URL are never of two accounts. The key is
// written before the server hears of it: whoever dies in between finds the account again by its key (RFC 8555 §7.3.1).
type storedAccount struct {
	V         int    `json:"v"`
	Directory string `json:"directory"`
	URL       string `json:"url,omitempty"` // "" = not registered yet
	Key       []byte `json:"key"`           // PKCS#8 DER
}

var (
	errStoredVersion = errors.New("the value was written by a version that is too new")
	errStoredShape   = errors.New("the value is damaged")
)

// parseAccount reads a stored account. It shows nothing of what it read in its errors, since that may be a key.
func parseAccount(data []byte) (url string, key crypto.Signer, err error) {
	var v storedAccount
	if err := decodeStored(data, &v); err != nil {
		return "", nil, err
	}
	if v.V < 1 || v.V > storedVersion+1 {
		return "", nil, errStoredVersion
	}
	k, err := x509.ParsePKCS8PrivateKey(v.Key)
	signer, ok := k.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return "", nil, errStoredShape
	}
	if v.URL != "" && !isHTTPS(v.URL) {
		return "", nil, errStoredShape
	}
	return v.URL, signer, nil
}

func decodeStored(data []byte, v any) error {
	if len(data) > maxStored {
		return errStoredShape
	}
	if err := json.Unmarshal(data, v); err != nil {
		return errStoredShape
	}
	return nil
}

func isHTTPS(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != ""
}

// accountKey is where an account lies. Another directory, contact or external account is another account.
func accountKey(a tenant.ACME) string {
	return path.Join("acme", certmagic.StorageKeys.Safe(hostOf(a.Directory)), "account-"+accountSum(a)+".json")
}

func accountSum(a tenant.ACME) string {
	sum := sha256.Sum256([]byte(withoutFragment(a.Directory) + "\n" + a.Email + "\n" + a.EABKeyID))
	return hex.EncodeToString(sum[:8])
}

// ensureAccount returns the account, registered. stale is the URL of one that the server has forgotten; "" = none.
func (c *call) ensureAccount(ctx context.Context, s certmagic.Storage, stale string) (acme.Account, error) {
	a, found, err := c.loadAccount(ctx, s)
	if err != nil || found && a.Location != "" && a.Location != stale {
		return a, err
	}
	if c.account.EABKeyID == "" && c.dir.Meta != nil && c.dir.Meta.ExternalAccountRequired {
		return a, &Error{Code: CodeEABRequired, Permanent: true, Detail: c.where() + " wants an external account: set certificates.acme.eab_key_id and the key"}
	}
	lock := "acme-account-" + accountSum(c.account) // no '/': it is a name, not a place
	if err := s.Lock(ctx, lock); err != nil {
		return a, storageError("the lock of the ACME account cannot be had", err)
	}
	defer c.unlock(ctx, s, lock)
	// Somebody else may have registered it while we waited.
	a, found, err = c.loadAccount(ctx, s)
	if err != nil || found && a.Location != "" && a.Location != stale {
		return a, err
	}
	return c.register(ctx, s, a, found)
}

func (c *call) unlock(ctx context.Context, s certmagic.Storage, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	if err := s.Unlock(ctx, name); err != nil {
		c.e.cfg.Logger.WarnContext(ctx, "the lock of an ACME account was not given back: it ends with the session of this replica", "server", hostOf(c.account.Directory), "error", c.clean(err.Error()))
	}
}

// loadAccount returns what is stored, ready for use, and whether anything is.
func (c *call) loadAccount(ctx context.Context, s certmagic.Storage) (acme.Account, bool, error) {
	data, err := s.Load(ctx, accountKey(c.account))
	if errors.Is(err, fs.ErrNotExist) {
		return acme.Account{}, false, nil
	}
	if err != nil {
		return acme.Account{}, false, storageError("the ACME account cannot be loaded", err)
	}
	location, key, err := parseAccount(data)
	if err != nil {
		return acme.Account{}, false, &Error{Code: CodeStorage, Permanent: true, Detail: "the stored ACME account " + accountKey(c.account) + " cannot be read: restore it, or remove it and a new one is registered", Err: err}
	}
	a := acme.Account{Status: acme.StatusValid, Location: location, PrivateKey: key, TermsOfServiceAgreed: true}
	c.hideThumbprint(a)
	return a, true, nil
}

func (c *call) hideThumbprint(a acme.Account) {
	if t, err := a.Thumbprint(); err == nil {
		c.hide(t)
	}
}

// register makes the account known to the server, with the key that is stored or a new one. A server that knows the key
// answers with the account that it has.
func (c *call) register(ctx context.Context, s certmagic.Storage, a acme.Account, found bool) (acme.Account, error) {
	if !found {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return a, &Error{Code: CodeInternal, Detail: "no key can be made", Err: err}
		}
		a.PrivateKey = key
		c.hideThumbprint(a)
		if err := c.storeAccount(ctx, s, a); err != nil {
			return a, err
		}
	}
	a.Location, a.Status, a.TermsOfServiceAgreed = "", "", true
	if c.account.Email != "" {
		a.Contact = []string{"mailto:" + c.account.Email}
	}
	if err := c.bind(ctx, &a); err != nil {
		return a, err
	}
	got, err := retryNonces(func() (acme.Account, error) { return c.client.NewAccount(ctx, a) })
	if err != nil {
		return a, c.accountError(err)
	}
	if got.Status != acme.StatusValid || !isHTTPS(got.Location) {
		return a, &Error{Code: CodeAccount, Permanent: true, Detail: c.where() + " gives the account the status " + quote(clip(got.Status, 40)) + ": ask its operators, or use another email to register another one"}
	}
	got.PrivateKey, got.ExternalAccountBinding = a.PrivateKey, nil
	return got, c.storeAccount(ctx, s, got)
}

// bind adds the external account (RFC 8555 §7.3.4). Keys come with and without padding, and in both alphabets.
func (c *call) bind(ctx context.Context, a *acme.Account) error {
	if c.account.EABKeyID == "" {
		return nil
	}
	key := strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(strings.TrimSpace(c.account.EABKey), "="))
	if raw, err := base64.RawURLEncoding.DecodeString(key); err != nil || len(raw) == 0 {
		return &Error{Code: CodeAccount, Permanent: true, Detail: "the key of the external account is not base64: correct certificates.acme.eab_key_file"}
	}
	c.hide(key)
	if err := a.SetExternalAccountBinding(ctx, c.client.Client, acme.EAB{KeyID: c.account.EABKeyID, MACKey: key}); err != nil {
		return &Error{Code: CodeAccount, Detail: "the external account cannot be bound", Err: err}
	}
	return nil
}

// accountError names the external account where it may be the reason.
func (c *call) accountError(err error) error {
	if c.account.EABKeyID != "" && isProblem(err, acme.ProblemTypeUnauthorized, acme.ProblemTypeMalformed) {
		var p acme.Problem
		errors.As(err, &p)
		return &Error{Code: CodeAccount, Permanent: true, Err: err, Detail: c.where() + " refuses the external account " + quote(c.account.EABKeyID) + ": check certificates.acme.eab_key_id and the key. It says: " + p.Detail}
	}
	return err
}

func (c *call) storeAccount(ctx context.Context, s certmagic.Storage, a acme.Account) error {
	der, err := x509.MarshalPKCS8PrivateKey(a.PrivateKey)
	if err != nil {
		return &Error{Code: CodeInternal, Detail: "the account's key cannot be written", Err: err}
	}
	data, err := json.Marshal(storedAccount{V: storedVersion, Directory: withoutFragment(c.account.Directory), URL: a.Location, Key: der})
	if err != nil {
		return &Error{Code: CodeInternal, Detail: "the account cannot be written", Err: err}
	}
	if err := s.Store(ctx, accountKey(c.account), data); err != nil {
		return storageError("the ACME account cannot be stored", err)
	}
	return nil
}

// retryNonces does again what failed since the server refused ten nonces in a row, which at a server that refuses half of
// them (a fault that test servers play, X09) one request in a thousand meets.
func retryNonces[T any](do func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		v, err := do()
		if try == 3 || !isProblem(err, acme.ProblemTypeBadNonce) {
			return v, err
		}
	}
}
