package admin

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// ArchiveType is the content type of archives.
const ArchiveType = "application/vnd.polygate.archive"

// Where archives come from and go to.
const (
	backupPath   = "/api/v1/backup"
	archivesPath = "/api/v1/archives"
)

// Bounds of archives. A backup is as long as the store is full; it has to go on being read.
const (
	MaxArchive  = 256 << 20        // bytes of a tenant's archive that is imported
	archiveTime = 15 * time.Minute // for a tenant's archive, as a whole
	backupTime  = 4 * time.Hour    // for a backup
	archiveIdle = 60 * time.Second // for each piece of it
)

// Archives writes and reads archives. It is safe for concurrent use. The entries are stored before anything is written.
type Archives interface {
	// Backup writes all that the registry holds.
	Backup(ctx context.Context, w io.Writer, e audit.Entry) error
	// Export writes one tenant; with its secrets, sealed for an age recipient, unless that is "". fault.Invalid for what is none.
	Export(ctx context.Context, t *tenant.Entry, recipient string, w io.Writer, e audit.Entry) error
	// Import makes a tenant of an archive, whose secrets are in the clear if it has any, under an id, "" = its own. fault.Conflict
	// where the id, a host or a key is in use; fault.Invalid for what is no archive of a tenant.
	Import(ctx context.Context, r io.Reader, as tenant.ID, e audit.Entry) (*tenant.Entry, error)
}

// ArchiveRequest is the body of an export.
type ArchiveRequest struct {
	Recipient string `json:"recipient,omitempty"` // an age recipient (age1…) for whom the secrets are sealed; default: they are left out
}

func (s *Server) archiveRoutes(one string) []Route {
	return []Route{
		{http.MethodPost, backupPath, authz.BackupCreate, "back up everything that the registry holds", s.backup},
		{http.MethodPost, one + "/archive", authz.TenantExport, "write the archive of a tenant", s.exportTenant},
		{http.MethodPost, archivesPath, authz.TenantImport, "make a tenant of an archive", s.importTenant},
	}
}

// timeOf bounds a request: archives take longer than anything else.
func timeOf(r *http.Request) time.Duration {
	switch {
	case r.URL.Path == backupPath:
		return backupTime
	case isArchive(r):
		return archiveTime
	}
	return requestTimeout
}

func isArchive(r *http.Request) bool {
	if r.URL.Path == archivesPath {
		return true
	}
	_, ok := match("/api/v1/tenants/{id}/archive", r.URL.EscapedPath())
	return ok
}

// body bounds the request's body, and gives one that may be long its time piece by piece.
func (s *Server) body(w http.ResponseWriter, r *http.Request) io.ReadCloser {
	if r.URL.Path != archivesPath {
		return http.MaxBytesReader(w, r.Body, maxBody)
	}
	return http.MaxBytesReader(w, &slowBody{r.Body, http.NewResponseController(w)}, MaxArchive)
}

// slowBody sets the deadline of the connection anew for each piece that is read.
type slowBody struct {
	io.ReadCloser
	conn *http.ResponseController
}

// Read implements io.Reader.
func (b *slowBody) Read(p []byte) (int, error) {
	_ = b.conn.SetReadDeadline(time.Now().Add(archiveIdle)) // not every connection has one
	_ = b.conn.SetWriteDeadline(time.Now().Add(2 * archiveIdle))
	return b.ReadCloser.Read(p)
}

// pieces is an answer that is written as it comes. A reader who stops holds it up no longer than archiveIdle.
type pieces struct {
	w     http.ResponseWriter
	id    string // of the request
	name  string // of the file
	begun bool
}

// Write implements io.Writer. The header goes out with the first piece: until then, a refusal can still be said.
func (p *pieces) Write(b []byte) (int, error) {
	if !p.begun {
		p.begun = true
		h := p.w.Header()
		h.Set("X-Request-Id", p.id)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Type", ArchiveType)
		h.Set("Content-Disposition", `attachment; filename="`+p.name+`"`)
		p.w.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(p.w).SetWriteDeadline(time.Now().Add(archiveIdle)) // not every connection has one
	return p.w.Write(b)
}

// writeOut admits an archive that is written out: the entry is for who writes it to store first.
func (c *call) writeOut(a authz.Action, resource string, subject tenant.Scope, name string, write func(w io.Writer, e audit.Entry) error) (*answer, error) {
	c.out.name = name
	err := c.change(a, resource, subject, func(e audit.Entry) error { return write(c.out, e) })
	return nil, err
}

func (s *Server) backup(c *call) (*answer, error) {
	if err := decode(c.http, &struct{}{}, true); err != nil {
		return nil, err
	}
	name := "polygate-" + s.cfg.Now().UTC().Format("20060102-150405") + ".backup"
	return c.writeOut(authz.BackupCreate, "backup", tenant.Scope{}, name, func(w io.Writer, e audit.Entry) error {
		if s.cfg.Archives == nil {
			return noArchives()
		}
		return s.cfg.Archives.Backup(c.ctx, w, e)
	})
}

func (s *Server) exportTenant(c *call) (*answer, error) {
	var req ArchiveRequest
	if err := decode(c.http, &req, true); err != nil {
		return nil, err
	}
	id, scope, e, missing, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	resource := "tenant/" + string(id) + "/archive"
	if req.Recipient != "" {
		resource += "/secrets" // who reads the record wants to know
	}
	return c.writeOut(authz.TenantExport, resource, scope, string(id)+".archive", func(w io.Writer, entry audit.Entry) error {
		if missing == nil && s.cfg.Archives == nil {
			missing = noArchives()
		}
		if missing != nil {
			return missing
		}
		return s.cfg.Archives.Export(c.ctx, e, req.Recipient, w, entry)
	})
}

func (s *Server) importTenant(c *call) (*answer, error) {
	text, err := only(c.http.URL.Query(), "as")
	if err != nil {
		return nil, err
	}
	as := tenant.ID(text)
	if as != "" {
		if as, err = tenant.ParseID(text); err != nil {
			return nil, err
		}
	}
	if c.http.Header.Get("Content-Type") != ArchiveType {
		return nil, fault.New(fault.UnsupportedMedia, "send the archive as Content-Type: %s", ArchiveType)
	}
	var made *tenant.Entry
	err = c.change(authz.TenantImport, "tenant/"+cmp.Or(string(as), "?"), tenant.Scope{}, func(e audit.Entry) error {
		if s.cfg.Archives == nil {
			return noArchives()
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), archiveTime)
		defer cancel()
		made, err = s.cfg.Archives.Import(ctx, c.http.Body, as, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	a := shown(http.StatusCreated, made)
	a.location = "/api/v1/tenants/" + string(made.Record.ID)
	return a, nil
}

func noArchives() error {
	return fault.New(fault.Unavailable, "this gateway is not configured to write or read archives")
}

// only returns a query parameter, of which there may be no other.
func only(q url.Values, name string) (string, error) {
	for have := range q {
		if have != name {
			return "", fault.New(fault.Invalid, "query parameter %.64q is unknown: use %s", have, name)
		}
	}
	if len(q[name]) > 1 {
		return "", fault.New(fault.Invalid, "%s is given twice", name)
	}
	return q.Get(name), nil
}
