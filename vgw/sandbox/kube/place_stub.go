package kube

import (
	"context"

	"github.com/polygate/polygate/internal/fault"
)

// Prepare implements sandbox.Driver.
func (d *driver) Prepare(context.Context) error {
	return fault.New(fault.NotImplemented, "namespaces are not prepared yet")
}
