package report

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/net/html"

	"github.com/polygate/polygate/bench/result"
)

const hostile = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&lt;|`*_[a](http://evil.test)\x1b[2J\u202e\n# heading\n| cell"

// spoiled is the sample with every word that comes from outside turned into an attack.
func spoiled() *result.Report {
	r := sample()
	r.Command, r.Machine.OS, r.Machine.CPU = hostile, hostile, hostile
	r.Versions = map[string]string{hostile: hostile}
	r.Ceilings[0].Protocol = hostile
	r.Skipped[0] = result.Skipped{Subject: hostile, Why: hostile}
	for i := range r.Scenarios {
		s := &r.Scenarios[i]
		s.Name, s.About, s.Notes = hostile, hostile, []string{hostile}
		for j := range s.Runs {
			run := &s.Runs[j]
			run.Subject += hostile
			run.Variant, run.Phase, run.Load = run.Variant+hostile, run.Phase+hostile, hostile
			run.Figures.Errors = map[string]int64{hostile: 3}
		}
	}
	for i := range r.Tenants {
		r.Tenants[i].Subject += hostile
	}
	for i := range r.Capacity {
		r.Capacity[i].Subject += hostile
	}
	return r
}

// elements parses a page and returns all its elements.
func elements(t testing.TB, page []byte) []*html.Node {
	t.Helper()
	doc, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	var out []*html.Node
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode {
			out = append(out, n)
		}
	}
	return out
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// checkPage holds that a page runs nothing and loads nothing, whatever the report says.
func checkPage(t testing.TB, page []byte) {
	t.Helper()
	allowed := strings.Fields("html head meta title style body main h1 h2 h3 p dl dt dd nav a section div table thead tbody tr th td small ul li figure figcaption svg desc line text path circle rect")
	for _, n := range elements(t, page) {
		if !slices.Contains(allowed, n.Data) {
			t.Errorf("the page has an element %s", n.Data)
		}
		for _, a := range n.Attr {
			switch {
			case strings.HasPrefix(a.Key, "on"), a.Key == "style", a.Key == "src", a.Key == "href" && !strings.HasPrefix(a.Val, "#"):
				t.Errorf("%s has %s=%q", n.Data, a.Key, a.Val)
			case slices.Contains([]string{"x", "y", "cx", "cy", "width", "height", "x1", "x2", "y1", "y2", "d"}, a.Key) && strings.ContainsAny(a.Val, "Ni"):
				t.Errorf("%s has %s=%q, which is no place", n.Data, a.Key, a.Val)
			}
		}
	}
	if css := styleSheet; strings.Contains(css, "url(") || strings.Contains(css, "@import") {
		t.Error("the style sheet loads something")
	}
}

func TestHostileNames(t *testing.T) {
	bad := spoiled()
	page := render(t, HTML, bad)
	checkPage(t, page)
	clean := elements(t, render(t, HTML, sample()))
	if got := elements(t, page); len(got) > 3*len(clean) {
		t.Errorf("%d elements, of a good report %d", len(got), len(clean))
	}
	for name, form := range map[string]func(io.Writer, *result.Report) error{"text": Text, "Markdown": Markdown, "HTML": HTML} {
		for _, r := range string(render(t, form, bad)) {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Errorf("%s: a character %U that moves the cursor", name, r)
				break
			}
		}
	}
	for line := range strings.Lines(string(render(t, Markdown, bad))) {
		if strings.Contains(line, "<") || strings.HasPrefix(line, "# heading") || strings.Contains(strings.ReplaceAll(line, `\]`, ""), "](http") {
			t.Errorf("Markdown: %q", line)
		}
	}
}

// TestMarkdownRows holds that no name breaks a row of a table.
func TestMarkdownRows(t *testing.T) {
	columns := 0
	for line := range strings.Lines(string(render(t, Markdown, spoiled()))) {
		if !strings.HasPrefix(line, "|") {
			columns = 0
			continue
		}
		n := strings.Count(line, "|") - strings.Count(line, `\|`)
		if columns == 0 {
			columns = n
		}
		if n != columns {
			t.Errorf("a row of %d columns in a table of %d: %s", n-1, columns-1, line)
		}
	}
}

// TestAccessible holds what a reader needs who does not see the plots, or who reads without a pointer.
func TestAccessible(t *testing.T) {
	page := elements(t, render(t, HTML, sample()))
	ids, plots := map[string]bool{}, 0
	for _, n := range page {
		if id := attribute(n, "id"); id != "" {
			if ids[id] {
				t.Errorf("two elements are %s", id)
			}
			ids[id] = true
		}
	}
	for _, n := range page {
		for _, id := range strings.Fields(attribute(n, "aria-labelledby")) {
			if !ids[id] {
				t.Errorf("%s is labelled by %s, which is not there", n.Data, id)
			}
		}
		switch n.Data {
		case "svg":
			plots++
			if attribute(n, "role") != "img" || len(strings.Fields(attribute(n, "aria-labelledby"))) != 2 {
				t.Error("a plot without a title and a description")
			}
		case "html":
			if attribute(n, "lang") != "en" {
				t.Error("the page's language is not said")
			}
		case "div":
			if attribute(n, "class") == "scroll" && attribute(n, "tabindex") != "0" {
				t.Error("a table that cannot be scrolled with the keyboard")
			}
		}
	}
	if plots < 8 {
		t.Errorf("%d plots", plots)
	}
}

// TestEmptyReports holds that nothing to show is shown as nothing.
func TestEmptyReports(t *testing.T) {
	for name, r := range map[string]*result.Report{
		"nothing": {V: 1}, "a scenario without runs": {V: 1, Scenarios: []result.Scenario{{Name: "x", About: "y"}}},
		"a run without answers": {V: 1, Scenarios: []result.Scenario{{Name: "x", Runs: []result.Run{{Subject: "s", Turn: 1}}}}},
	} {
		text := string(render(t, Text, r))
		if !strings.Contains(text, "It was interrupted") || strings.Contains(text, "NaN") {
			t.Errorf("%s: got\n%s", name, text)
		}
		checkPage(t, render(t, HTML, r))
		render(t, Markdown, r)
	}
}

// FuzzRender holds that whatever result.Read takes is rendered, and safely.
func FuzzRender(f *testing.F) {
	for _, r := range []*result.Report{spoiled(), {V: 1, Scenarios: []result.Scenario{{Runs: []result.Run{{Subject: "a", Turn: 1, Figures: result.Figures{CPUMicros: 1e-300, Rate: 1}}}}}}} {
		for i := range r.Scenarios {
			r.Scenarios[i].Runs = r.Scenarios[i].Runs[:1]
		}
		var b bytes.Buffer
		if err := result.Write(&b, r); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := result.Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		checkPage(t, render(t, HTML, r))
		render(t, Text, r)
		render(t, Markdown, r)
	})
}
