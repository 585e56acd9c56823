package main

import "github.com/spf13/cobra"

func (a *admins) tenantApply() *cobra.Command { return &cobra.Command{Use: "apply"} }
