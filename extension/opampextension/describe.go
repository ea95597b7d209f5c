package opampextension

import (
	"maps"
	"os"
	"runtime"

	"github.com/google/uuid"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/service/hostcapabilities"
	conventions "go.opentelemetry.io/otel/semconv/v1.40.0"

	"github.com/otelcol-opamp/otelcol-opamp/internal/session"
)

// describe says who the agent is. Its service.instance.id is the instance UID:
// the Collector draws a new one for every service, that is for every reload.
func (e *opampExtension) describe(uid uuid.UUID) session.Description {
	resource := e.set.Resource.Attributes().AsRaw()
	identifying := map[string]any{
		string(conventions.ServiceInstanceIDKey): uid.String(),
		string(conventions.ServiceNameKey):       e.set.BuildInfo.Command,
		string(conventions.ServiceVersionKey):    e.set.BuildInfo.Version,
	}
	for _, key := range []string{string(conventions.ServiceNameKey), string(conventions.ServiceVersionKey), string(conventions.ServiceNamespaceKey)} {
		if value, ok := resource[key]; ok {
			identifying[key] = value
		}
	}
	nonIdentifying := map[string]any{
		string(conventions.OSTypeKey):   runtime.GOOS,
		string(conventions.HostArchKey): runtime.GOARCH,
	}
	if name, err := os.Hostname(); err == nil {
		nonIdentifying[string(conventions.HostNameKey)] = name
	}
	if description := osDescription(); description != "" {
		nonIdentifying[string(conventions.OSDescriptionKey)] = description
	}
	for key, value := range e.cfg.AgentDescription.NonIdentifyingAttributes {
		nonIdentifying[key] = value
	}
	if e.cfg.AgentDescription.IncludeResourceAttributes {
		maps.DeleteFunc(resource, func(key string, _ any) bool { _, ok := identifying[key]; return ok })
		maps.Copy(nonIdentifying, resource)
	}
	return session.Description{Identifying: identifying, NonIdentifying: nonIdentifying}
}

// components returns what the Collector was built with.
func components(h component.Host) session.Components {
	infos, ok := h.(hostcapabilities.ModuleInfo)
	if !ok {
		return session.Components{}
	}
	m := infos.GetModuleInfos()
	out := session.Components{"receivers": {}, "processors": {}, "exporters": {}, "extensions": {}, "connectors": {}}
	for t, info := range m.Receiver {
		out["receivers"][t.String()] = info.BuilderRef
	}
	for t, info := range m.Processor {
		out["processors"][t.String()] = info.BuilderRef
	}
	for t, info := range m.Exporter {
		out["exporters"][t.String()] = info.BuilderRef
	}
	for t, info := range m.Extension {
		out["extensions"][t.String()] = info.BuilderRef
	}
	for t, info := range m.Connector {
		out["connectors"][t.String()] = info.BuilderRef
	}
	return out
}
