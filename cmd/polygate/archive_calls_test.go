package main

import (
	"bytes"
	"testing"

	"filippo.io/age"

	"github.com/polygate/polygate/internal/archive"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/proxy/admin"
)

// archivesAndKeys calls the operations of backups, archives and key-encryption keys.
func (s *described) archivesAndKeys(t *testing.T) {
	const export, load = "POST /api/v1/tenants/{id}/archive", "POST /api/v1/archives"
	backup := s.admin.send(apiCall{op: "POST /api/v1/backup", want: 200})
	if m, err := archive.Verify(bytes.NewReader(backup.Body)); err != nil || m.Kind != archive.Backup {
		t.Errorf("the backup: %+v, %v", m, err)
	}
	s.auditor.send(apiCall{op: "POST /api/v1/backup", want: 403})
	a := map[string]string{"id": "team-a"}
	plain := s.admin.send(apiCall{op: export, args: a, want: 200})
	id := must(age.GenerateX25519Identity())
	sealed := s.admin.send(apiCall{op: export, args: a, want: 200, body: m{"recipient": id.Recipient().String()}})
	s.admin.send(apiCall{op: export, args: a, want: 400, body: m{"recipient": "mallory"}})
	s.admin.send(apiCall{op: export, args: map[string]string{"id": "nobody-here"}, want: 404})
	media := map[string]string{"Content-Type": admin.ArchiveType}
	s.admin.raw(load, "/api/v1/archives?as=copy-a", string(plain.Body), media, 409) // its host is in use
	s.admin.raw(load, "/api/v1/archives?as=copy-a", string(sealed.Body), media, 400)
	s.admin.raw(load, "/api/v1/archives", string(backup.Body), media, 400)
	s.admin.raw(load, "/api/v1/archives", "{}", map[string]string{"Content-Type": "application/json"}, 415)
	other := s.admin.send(apiCall{op: export, args: map[string]string{"id": "team-b"}, want: 200})
	s.admin.raw(load, "/api/v1/archives?as=copy-b", string(other.Body), media, 201)

	s.auditor.send(apiCall{op: "GET /api/v1/secrets", want: 200})
	s.auditor.send(apiCall{op: "POST /api/v1/secrets/rekey", want: 403})
	s.admin.send(apiCall{op: "POST /api/v1/secrets/rekey", want: 409, body: m{"key": "0123456789ab"}})
	must(seal.AddKey(s.dir + "/data/kek"))
	s.admin.send(apiCall{op: "POST /api/v1/secrets/rekey", want: 202})
	s.admin.send(apiCall{op: "GET /api/v1/secrets", want: 200})
}
