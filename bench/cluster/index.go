package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// perTxn is how many records go to etcd at a time.
const perTxn = 1000

// measureIndex starts a replica on an etcd with n tenants, each like one that the API made, with a key of its own.
func measureIndex(ctx context.Context, o options, n int) error {
	f, err := startFleet(o, fmt.Sprintf("index-%d", n), 1, 1)
	if err != nil {
		return err
	}
	defer func() { f.end(); _ = os.RemoveAll(f.dir) }()
	if err := f.makeTenants(ctx, 1); err != nil {
		return err
	}
	r := f.replicas[0]
	r.kill()
	if err := r.start(); err != nil {
		return err
	}
	if err := r.awaitReady(time.Minute); err != nil {
		return err
	}
	few := r.resident()
	r.kill()
	if err := f.fill(ctx, n); err != nil {
		return err
	}
	wait := time.NewTimer(f.o.ttl + 2*time.Second) // the session of the one that was killed
	defer wait.Stop()
	<-wait.C
	began := time.Now()
	if err := r.start(); err != nil {
		return err
	}
	if err := r.awaitReady(5 * time.Minute); err != nil {
		return err
	}
	took := time.Since(began)
	if _, err := r.operator(ctx, http.MethodGet, "/api/v1/tenants/"+synthetic(n-1), nil); err != nil {
		return err
	}
	many := r.resident()
	fmt.Printf("%-52s ready after %s, resident %d MiB, %.2f KiB a tenant\n", fmt.Sprintf("start with %d tenants", n), took.Round(time.Millisecond), many>>10, float64(many-few)/float64(n))
	return nil
}

func synthetic(i int) string { return fmt.Sprintf("tenant-%07d", i) }

// resident is the memory of the process, in KiB.
func (r *replica) resident() int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(r.cmd.Process.Pid) + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	n, _ := strconv.Atoi(strings.Fields(rest)[0])
	return n
}

// fill writes records like that of t0, by etcd's JSON gateway.
func (f *fleet) fill(ctx context.Context, n int) error {
	var got struct {
		KVs []struct {
			Value []byte `json:"value"`
		} `json:"kvs"`
	}
	if err := f.etcd(ctx, "range", map[string][]byte{"key": []byte("polygate/x/t0")}, &got); err != nil {
		return err
	}
	if len(got.KVs) != 1 {
		return fmt.Errorf("there is no record of t0")
	}
	for from := 0; from < n; from += perTxn {
		var puts []any
		for i := from; i < min(n, from+perTxn); i++ {
			value, err := like(got.KVs[0].Value, i)
			if err != nil {
				return err
			}
			puts = append(puts, map[string]any{"request_put": map[string][]byte{"key": []byte("polygate/x/" + synthetic(i)), "value": value}})
		}
		if err := f.etcd(ctx, "txn", map[string]any{"success": puts}, nil); err != nil {
			return err
		}
	}
	return nil
}

// like returns a record as template, of another tenant.
func like(template []byte, i int) ([]byte, error) {
	var r map[string]any
	if err := json.Unmarshal(template, &r); err != nil {
		return nil, err
	}
	r["id"], r["uid"] = synthetic(i), uuid()
	keys, _ := r["keys"].([]any)
	for _, k := range keys {
		key, _ := k.(map[string]any)
		was, _ := key["hash"].(string)
		sum := sha256.Sum256(fmt.Appendf(nil, "%d", i))
		prefix := ""
		if strings.HasPrefix(was, "sha256:") {
			prefix = "sha256:"
		}
		key["id"], key["hash"] = uuid(), prefix+encodeLike(strings.TrimPrefix(was, "sha256:"), sum[:])
	}
	return json.Marshal(r)
}

// encodeLike writes a hash as the sample is written.
func encodeLike(sample string, sum []byte) string {
	if len(sample) == 2*len(sum) {
		return hex.EncodeToString(sum)
	}
	return base64.StdEncoding.EncodeToString(sum)
}

func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// etcd calls the JSON gateway of a member; bytes are base64 in it, as encoding/json writes them.
func (f *fleet) etcd(ctx context.Context, call string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+f.clients[0]+"/v3/kv/"+call, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("etcd: %s: %s", call, resp.Status)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
