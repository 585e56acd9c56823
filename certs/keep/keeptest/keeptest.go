// Package keeptest is the suite that certs/keep passes on every registry: certmagic's storage contract line by line, and what
// keep promises beyond it. It knows no registry; whoever runs it opens the replicas.
package keeptest
