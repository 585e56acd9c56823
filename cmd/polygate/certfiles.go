package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// fileLook is how often the platform's certificate files are looked at.
const fileLook = 2 * time.Second

// importer takes certificates that somebody else made.
type importer interface {
	ImportFile(ctx context.Context, e *tenant.Entry, chain, key []byte, entry audit.Entry) (hosts []string, err error)
	FilesWrong(e *tenant.Entry, why string)
}

// fileTroubles is what is wrong with certificate files, for a status, which names no path.
type fileTroubles []string

func (f *fileTroubles) unread(wrong config.Errors) {
	if len(wrong) > 0 {
		*f = append(*f, "it cannot be read: the gateway's log has more")
	}
}

func (f *fileTroubles) refused(err error) { *f = append(*f, fault.From(err).Detail) }

func (f fileTroubles) String() string { return strings.Join(f, "; ") }

// platformFiles takes in the certificates of the platform's own hosts whenever another tool renews their files.
type platformFiles struct {
	files []config.CertificateFile
	certs importer
	entry func(e *tenant.Entry, a authz.Action, resource, outcome string) (audit.Entry, error)
	log   *slog.Logger

	known stamps // of the files as they were taken in last
	taken string // digest of what was
}

// run looks at the files until ctx ends. What is wrong with one is logged once for each change, and the certificate that was
// taken in before stays.
func (w *platformFiles) run(ctx context.Context) error {
	tick := time.NewTicker(fileLook)
	defer tick.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w *platformFiles) look(ctx context.Context) {
	if w.known != nil && !w.known.changed() {
		return
	}
	paths := pathsOf(w.files)
	before := stamps{}.of(paths).now().of(paths)
	pairs, digest, wrong := config.ReadCertificates(w.files)
	for _, err := range wrong {
		w.log.Error("a certificate file is not taken in", "error", err.Error())
	}
	if digest != w.taken {
		var why fileTroubles
		why.unread(wrong)
		if !w.take(ctx, pairs, &why) {
			return // the registry is away: again soon
		}
		w.certs.FilesWrong(nil, why.String())
	}
	w.known, w.taken = before, digest
}

// take reports false where it is worth trying again without a change of the files.
func (w *platformFiles) take(ctx context.Context, pairs []config.CertificatePair, why *fileTroubles) bool {
	for _, p := range pairs {
		entry, err := w.entry(nil, authz.CertificateUpdate, "certificate", audit.OutcomeOK)
		if err == nil {
			var hosts []string
			if hosts, err = w.certs.ImportFile(ctx, nil, p.Chain, p.Key, entry); err == nil {
				w.log.Info("certificate taken in", "file", p.File.Cert, "hosts", hosts)
				continue
			}
		}
		if broken(ctx, err) {
			return false
		}
		why.refused(err)
		w.log.Error("a certificate file is not taken in: the one before stays", "error", p.Wrong(err).Error())
	}
	return true
}

func pathsOf(files []config.CertificateFile) []string {
	var list []string
	for _, f := range files {
		list = append(list, f.Cert, f.Key)
	}
	return list
}

// applyCertificates takes in the certificate files of each tenant whose files are others than before. One that is broken is its
// tenant's affair: what was taken in before stays, and it is tried again at the next change.
func (r *reloader) applyCertificates(ctx context.Context, visit *guard.Visit, want *config.Tenants) error {
	var errs []error
	for i := range want.List {
		t := &want.List[i]
		e, ok := r.store.Index().ByID(t.Record.ID)
		if !ok || e.Record.Source != tenant.SourceFile {
			continue
		}
		if err := r.applyFiles(ctx, visit, e, t.CertificateFiles); err != nil {
			if broken(ctx, err) {
				return err
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (r *reloader) applyFiles(ctx context.Context, visit *guard.Visit, e *tenant.Entry, files []config.CertificateFile) error {
	paths := pathsOf(files)
	before := stamps{}.of(paths).now().of(paths)
	hosts := strings.Join(slices.Sorted(slices.Values(e.Record.Hosts)), " ")
	was := ""
	if e.Record.Certificates != nil {
		was = e.Record.Certificates.Digest
	}
	if seen, ok := r.taken[e.Scope]; ok && was != "" && seen.files.sameFiles(before) && seen.hosts == hosts && !seen.files.changed() {
		return nil // with thousands of tenants, most reloads are about none of these files
	}
	pairs, digest, wrong := config.ReadCertificates(files)
	digest = digestFor(digest, hosts)
	if digest == was {
		r.certs.FilesWrong(e, "")
		r.taken[e.Scope] = takenFiles{before, hosts}
		return nil
	}
	var errs []error
	var why fileTroubles
	why.unread(wrong)
	for _, err := range wrong {
		errs = append(errs, err)
	}
	for _, p := range pairs {
		if err := r.takeFile(ctx, visit, e, p); err != nil {
			if broken(ctx, err) {
				return err
			}
			why.refused(err)
			errs = append(errs, p.Wrong(err))
		}
	}
	r.certs.FilesWrong(e, why.String())
	if len(errs) > 0 {
		return errors.Join(errs...) // the digest stays: tried again
	}
	if digest == "" {
		r.log.Warn("certificates: the files of the tenant are declared no more: what was taken in from them stays until it ends, or is removed with polygate cert remove", "tenant", string(e.Record.ID))
	}
	err := r.apply(ctx, visit, config.Change{Kind: config.Update, ID: e.Record.ID, Edit: func(rec *tenant.Record) error {
		if rec.Certificates == nil {
			rec.Certificates = new(tenant.Certificates)
		}
		rec.Certificates.Digest = digest
		return nil
	}})
	if err == nil {
		r.taken[e.Scope] = takenFiles{before, hosts}
	}
	return err
}

// takenFiles is what a tenant's certificate files were when they were taken in, and for which hosts.
type takenFiles struct {
	files stamps
	hosts string
}

// digestFor is the digest of files as they are taken in for a tenant's further hosts: another host may be one that they name.
func digestFor(files, hosts string) string {
	if files == "" || hosts == "" {
		return files
	}
	sum := sha256.Sum256([]byte(files + " " + hosts))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (r *reloader) takeFile(ctx context.Context, visit *guard.Visit, e *tenant.Entry, p config.CertificatePair) error {
	permit, err := visit.Admit(guard.Effect{Action: authz.CertificateUpdate, Resource: "certificate", Subject: e.Scope})
	if err != nil {
		return err
	}
	hosts, err := r.certs.ImportFile(ctx, e, p.Chain, p.Key, permit.Entry(audit.OutcomeOK))
	if err = permit.Settle(err); err != nil {
		return err
	}
	slices.Sort(hosts)
	r.log.Info("applied", "change", "certificate", "tenant", string(e.Record.ID), "hosts", hosts)
	return nil
}
