package process

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// The files of a run's folder. All are written by the shim but for taskFile.
const (
	taskFile   = "task"    // what is to be run, written before the folder has its name
	statusFile = "status"  // where the run is; replaced as a whole
	lockFile   = "lock"    // held by the shim while it lives, and by nobody else for long
	logFile    = "log"     // what the processes wrote
	logOldFile = "log.old" // the log before it
	shimFile   = "shim"    // what the shim itself said, should it break
	callSocket = "call"    // answered by the shim: stop, and news
	execSocket = "exec"    // answered inside
)

// Bounds of what is read of a folder: in a plain sandbox of our own user, its processes could write there.
const (
	maxTask   = 4 << 20
	maxStatus = 64 << 10
	maxRuns   = 10000 // folders of one tenant that are looked at
)

// order is what the gateway writes for the shim.
type order struct {
	V       int           `json:"v"`
	UID     string        `json:"uid"`
	Task    sandbox.Task  `json:"task"`
	Mode    mode          `json:"mode"`
	Groups  *groups       `json:"groups,omitempty"`
	Self    string        `json:"self"`
	Paths   []string      `json:"paths,omitempty"`
	Hide    string        `json:"hide"` // the folder of all sandboxes
	Network bool          `json:"network,omitempty"`
	Pids    int           `json:"pids"`
	Made    time.Time     `json:"made"`
	Patient time.Duration `json:"-"`
}

// status is what the shim writes.
type status struct {
	V       int           `json:"v"`
	UID     string        `json:"uid"`
	Phase   sandbox.Phase `json:"phase"`
	Shim    identity      `json:"shim"`
	First   identity      `json:"first,omitzero"` // of what the shim started
	Started time.Time     `json:"started,omitzero"`
	Ended   time.Time     `json:"ended,omitzero"`
	Exit    *int          `json:"exit,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	Message string        `json:"message,omitempty"`
	Limits  string        `json:"limits,omitempty"` // in words
	User    int           `json:"user,omitempty"`   // that the sandbox is outside; 0 = our own
	Place   string        `json:"place,omitempty"`  // a folder outside of this one that goes with the run
}

// statusVersion is the version of both files. A gateway reads those of the version before it, too: shims outlive its upgrade.
const statusVersion = 1

// tenantFolder names the folder of a tenant, by its unique id alone: a tenant that is made again under the same name finds nothing.
func tenantFolder(uid string) string {
	sum := sha256.Sum256([]byte("polygate sandboxes of a tenant\x00" + uid))
	return "t-" + hex.EncodeToString(sum[:16])
}

// runFolder names the folder of a run. Both parts are ids that the gateway made; anything else is refused, so that no path is made of
// what somebody wrote.
func runFolder(id, nonce string) (string, error) {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return "", fault.New(fault.Internal, "%q is no id of a sandbox", id)
	}
	if nonce == "" || len(nonce) > 64 || strings.Trim(nonce, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return "", fault.New(fault.Internal, "%q is no nonce of a run", nonce)
	}
	return id + "." + nonce, nil
}

// parseRunFolder is the inverse of runFolder; ok is false for what is no run's folder.
func parseRunFolder(name string) (id, nonce string, ok bool) {
	id, nonce, ok = strings.Cut(name, ".")
	if !ok {
		return "", "", false
	}
	made, err := runFolder(id, nonce)
	return id, nonce, err == nil && made == name
}

// newUID returns the identity of a run.
func newUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// validUID says whether a UID is one that newUID makes: names of control groups and folders are made of it.
func validUID(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}

// openRegular opens a file for reading that must be a file: no link that leads elsewhere, no pipe that keeps its reader waiting.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, f.Close(), errNotAFile)
	}
	return f, nil
}

var errNotAFile = errors.New("what should be a file is something else")

// readBounded reads a small file.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fault.New(fault.Internal, "%s is longer than %d bytes", filepath.Base(path), most)
	}
	return b, err
}

// parseOrder reads an order strictly.
func parseOrder(b []byte) (*order, error) {
	var o order
	if err := json.Unmarshal(b, &o); err != nil {
		return nil, err
	}
	if o.V < 1 || o.V > statusVersion+1 || !validUID(o.UID) {
		return nil, fault.New(fault.Internal, "the task of a run makes no sense")
	}
	return &o, nil
}

// parseStatus reads a status. What makes no sense is an error: it would be believed otherwise.
func parseStatus(b []byte) (*status, error) {
	var s status
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	if s.V < 1 || s.V > statusVersion+1 || !validUID(s.UID) || s.Phase < sandbox.PhaseWaiting || s.Phase > sandbox.PhaseStopping {
		return nil, fault.New(fault.Internal, "the status of a run makes no sense")
	}
	if s.Exit != nil && (*s.Exit < 0 || *s.Exit > 255) {
		s.Exit = nil
	}
	s.Reason, s.Message, s.Limits = printable(s.Reason, 64), printable(s.Message, 1024), printable(s.Limits, 256)
	return &s, nil
}

func readOrder(dir string) (*order, error) {
	b, err := readBounded(filepath.Join(dir, taskFile), maxTask)
	if err != nil {
		return nil, err
	}
	return parseOrder(b)
}

// readStatus returns nil without an error while there is none.
func readStatus(dir string) (*status, error) {
	b, err := readBounded(filepath.Join(dir, statusFile), maxStatus)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseStatus(b)
}

// write replaces the status of a run, as a whole.
func (s *status) write(dir string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return replace(filepath.Join(dir, statusFile), b)
}

func replace(path string, b []byte) error {
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// printable cuts text that came from outside to a length, on one line.
func printable(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' || r == '\ufffd' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
}
