package config

import "reflect"

// TenantsForm is the form of tenants.yaml, for tests that compare it with an example.
func TenantsForm() reflect.Type { return reflect.TypeFor[tenantsFile]() }
