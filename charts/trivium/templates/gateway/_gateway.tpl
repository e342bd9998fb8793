{{/* Where the gateway finds the orchestrators: at all addresses of their headless Service, which gRPC spreads calls over. */}}
{{- define "trivium.gatewayEnv" -}}
- name: TRIVIUM_GATEWAY_ORCHESTRATOR
  value: dns:///{{ include "trivium.name" (dict "root" . "component" "orchestrator") }}-headless:{{ include "trivium.port" (dict "component" "orchestrator") }}
{{- end -}}

{{/*
The paths that are for clients, as a JSON array of [path, whether it stands for all below it, too]. /metrics and /live are
for the cluster.
*/}}
{{- define "trivium.clientPaths" -}}
{{- list (list "/v1" true) (list "/" false) (list "/playground" true) (list "/health" false) (list "/openapi.json" false) | toJson -}}
{{- end -}}
