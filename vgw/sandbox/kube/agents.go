package kube

// served remembers what the cluster serves beside its core.
type served struct{}
