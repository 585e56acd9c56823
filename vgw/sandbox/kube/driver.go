package kube

import (
	"context"
	"io"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

var errNotYet = fault.New(fault.NotImplemented, "not yet")

func (d *driver) Create(ctx context.Context, t sandbox.Task) (string, error) { return "", errNotYet }
func (d *driver) Remove(ctx context.Context, t sandbox.Task, grace time.Duration) error {
	return errNotYet
}
func (d *driver) Release(ctx context.Context, t sandbox.Task) error { return errNotYet }
func (d *driver) Watch(ctx context.Context, seen func(sandbox.Observation), synced func()) error {
	return errNotYet
}
func (d *driver) Exec(ctx context.Context, t sandbox.Task, x sandbox.Exec) (sandbox.Exit, error) {
	return sandbox.Exit{}, errNotYet
}
func (d *driver) Logs(ctx context.Context, t sandbox.Task, q sandbox.LogQuery) (io.ReadCloser, error) {
	return nil, errNotYet
}
func (d *driver) Events(ctx context.Context, t sandbox.Task) ([]sandbox.Event, error) {
	return nil, errNotYet
}
func (d *driver) Used(ctx context.Context) (map[string]sandbox.Used, error) {
	return nil, sandbox.ErrUnmetered
}
