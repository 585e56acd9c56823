package plan

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s\n(go test -update writes it anew)", name, got, want)
	}
}

// TestExample plans the demand that comes along, with costs that stay as they are.
func TestExample(t *testing.T) {
	d, err := Parse("example.yaml", Example())
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compute(*d, testCosts(t), Machine{})
	if err != nil {
		t.Fatal(err)
	}
	b := new(bytes.Buffer)
	if err := p.Text(b); err != nil {
		t.Fatal(err)
	}
	golden(t, "example.txt", b.Bytes())
	b.Reset()
	if err := p.JSON(b); err != nil {
		t.Fatal(err)
	}
	golden(t, "example.json", b.Bytes())
	var back Plan
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || back.Replicas != p.Replicas {
		t.Errorf("read back: got %+v %v, want %+v", back.Replicas, err, p.Replicas)
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		value float64
		unit  string
		want  string
	}{
		{0, "bytes", "0 bytes"},
		{1023, "bytes", "1023 bytes"},
		{1536, "bytes", "1.5 KiB"},
		{3 << 30, "bytes", "3 GiB"},
		{1.234, "cores", "1.23 cores"},
		{12345678, "a second", "12,345,678 a second"},
		{999.6, "open", "1,000 open"},
		{0.0123, "a second", "0.0123 a second"},
	} {
		if got := amount(c.value, c.unit); got != c.want {
			t.Errorf("amount(%v, %s): got %q, want %q", c.value, c.unit, got, c.want)
		}
	}
}

func TestFigures(t *testing.T) {
	for _, c := range []struct {
		value  float64
		digits int
		want   string
	}{{78884900, 6, "78884900"}, {10_000_000, 6, "10000000"}, {429.2683, 6, "429.268"}, {6.66667, 4, "6.667"}, {123456.7, 4, "123457"}, {0, 4, "0"}} {
		if got := figure(c.value, c.digits); got != c.want {
			t.Errorf("figure(%v, %d): got %q, want %q", c.value, c.digits, got, c.want)
		}
	}
}
