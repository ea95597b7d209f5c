package policy

// access is what a component does with a path or an address.
type access string

const (
	read    access = "files::read"
	write   access = "files::write"
	execute access = "files::execute"
	listen  access = "listen"
)

// rule says that a component uses a field as a path or an address.
type rule struct {
	// section and typ name the component; "*" means any.
	section, typ string
	// field is the path of the field below the component; a segment may be a
	// pattern, * for an index of a list too, and ** stands for any number of
	// segments.
	field  string
	access access
}

// rules are for the components of the distribution, by the names of their types
// without underscores. It is the table in docs/policy.md, which a test compares.
var rules = []rule{
	{"*", "*", "**::*_file", read},
	{"*", "*", "**::*_files", read},
	{"*", "*", "**::*_files::*", read},

	{"receivers", "otlp", "protocols::*::endpoint", listen},
	{"receivers", "jaeger", "protocols::*::endpoint", listen},
	{"receivers", "jaeger", "remote_sampling::host_endpoint", listen},
	{"receivers", "zipkin", "endpoint", listen},
	{"receivers", "syslog", "tcp::listen_address", listen},
	{"receivers", "syslog", "udp::listen_address", listen},
	{"receivers", "prometheus", "api_server::server_config::endpoint", listen},
	{"receivers", "prometheus", "config::scrape_configs::*::file_sd_configs::*::files", read},
	{"receivers", "prometheus", "config::scrape_configs::*::file_sd_configs::*::files::*", read},
	{"receivers", "hostmetrics", "root_path", read},
	{"receivers", "filelog", "include", read},
	{"receivers", "filelog", "include::*", read},
	{"receivers", "journald", "directory", read},
	{"receivers", "journald", "files", read},
	{"receivers", "journald", "files::*", read},
	{"receivers", "journald", "root_path", read},
	{"receivers", "journald", "journalctl_path", execute},
	{"receivers", "*", "operators::*::path", write},
	{"receivers", "*", "operators::*::include", read},
	{"receivers", "*", "operators::*::include::*", read},
	{"receivers", "*", "operators::*::listen_address", listen},

	{"exporters", "file", "path", write},
	{"exporters", "prometheus", "endpoint", listen},
	{"exporters", "prometheusremotewrite", "wal::directory", write},

	{"extensions", "zpages", "endpoint", listen},
	{"extensions", "healthcheck", "endpoint", listen},
	{"extensions", "healthcheck", "*::endpoint", listen},
	{"extensions", "filestorage", "directory", write},
	{"extensions", "filestorage", "compaction::directory", write},
	{"extensions", "basicauth", "htpasswd::file", read},
	{"extensions", "bearertokenauth", "filename", read},

	{"service", "telemetry", "logs::output_paths", write},
	{"service", "telemetry", "logs::output_paths::*", write},
	{"service", "telemetry", "logs::error_output_paths", write},
	{"service", "telemetry", "logs::error_output_paths::*", write},
	{"service", "telemetry", "metrics::address", listen},
	{"service", "telemetry", "metrics::readers::*::pull::exporter::prometheus*::host", listen},
	{"service", "telemetry", "**::certificate", read},
	{"service", "telemetry", "**::client_certificate", read},
	{"service", "telemetry", "**::client_key", read},
}
