package peer

import (
	"fmt"
	"path/filepath"
)

// object is a part of Caddy's JSON.
type object = map[string]any

// config is Caddy's configuration: certificates from files, a route for each host, nothing that goes out or that others may talk to.
func (c *caddy) config(s *Site, dir string, port int) object {
	server := object{
		"listen":                  []string{fmt.Sprintf("tcp4/%s:%d", listenOn, port)},
		"protocols":               []string{"h1", "h2"},
		"automatic_https":         object{"disable": true},
		"idle_timeout":            "1h",
		"routes":                  c.routes(s),
		"tls_connection_policies": []object{{"protocol_min": "tls1.2"}},
	}
	logging := object{"default": object{"level": "WARN"}}
	if !c.noLog {
		server["logs"] = object{}
		logging["default"] = object{"level": "WARN", "exclude": []string{"http.log.access"}}
		logging["access"] = object{
			"include": []string{"http.log.access"}, "encoder": object{"format": "json"},
			"writer": object{"output": "file", "filename": filepath.Join(dir, "access.log"), "roll": false},
		}
	}
	return object{
		"admin":   object{"disabled": true, "config": object{"persist": false}},
		"storage": object{"module": "file_system", "root": filepath.Join(dir, "storage")},
		"logging": object{"logs": logging},
		"apps": object{
			"tls":  object{"certificates": object{"load_files": certificatesOf(s)}, "disable_ocsp_stapling": true},
			"http": object{"grace_period": "1s", "servers": object{"tenants": server}},
		},
	}
}

func certificatesOf(s *Site) []object {
	all := make([]object, len(s.Tenants))
	for i := range s.Tenants {
		all[i] = object{"certificate": s.Tenants[i].CertFile, "key": s.Tenants[i].KeyFile}
	}
	return all
}

// routes has one for each tenant, which ends there, and one that refuses other hosts.
func (*caddy) routes(s *Site) []object {
	var all []object
	for i := range s.Tenants {
		t := &s.Tenants[i]
		all = append(all, object{
			"match": []object{{"host": []string{t.Host}}}, "terminal": true,
			"handle": []object{{"handler": "subroute", "routes": tenantRoutes(s, t)}},
		})
	}
	return append(all, object{"handle": []object{{"handler": "static_response", "status_code": 421}}})
}

func tenantRoutes(s *Site, t *Tenant) []object {
	var all []object
	if s.Auth == KeyAuth {
		all = append(all, object{
			"match":  []object{{"not": []object{{"header": object{"Authorization": []string{"Bearer " + t.Key}}}}}},
			"handle": []object{{"handler": "static_response", "status_code": 401}}, "terminal": true,
		})
	}
	if s.Upstream.H2C {
		all = append(all, object{
			"match":  []object{{"path": []string{grpcService + "*"}}},
			"handle": []object{relay(t, "h2c")}, "terminal": true,
		})
	}
	return append(all, object{"handle": []object{relay(t, "1.1")}})
}

func relay(t *Tenant, version string) object {
	return object{
		"handler":   "reverse_proxy",
		"upstreams": []object{{"dial": t.Upstream}},
		"transport": object{
			"protocol": "http", "versions": []string{version}, "compression": false,
			"keep_alive": object{"idle_timeout": "1h", "max_idle_conns": 16 * keptConnections, "max_idle_conns_per_host": keptConnections},
		},
	}
}
