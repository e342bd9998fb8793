{{/*
Names and labels. Every component-wise template takes (dict "root" $ "component" "slm").
*/}}

{{- define "trivium.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "trivium.name" -}}
{{ include "trivium.fullname" .root }}-{{ .component }}
{{- end -}}

{{- define "trivium.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "trivium.labels" -}}
{{ include "trivium.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* .suffix, where there is one, tells a component's object from another of its kind. */}}
{{- define "trivium.metadata" -}}
name: {{ include "trivium.name" . }}{{ .suffix | default "" }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "trivium.labels" . | nindent 2 }}
{{- end -}}

{{/* The services whose calls the orchestrator makes, as a JSON array. */}}
{{- define "trivium.backends" -}}
{{- toJson (ternary (list "slm" "router" "llm") (list "slm" "llm") .Values.router.enabled) -}}
{{- end -}}

{{/* The services that run, as a JSON array. */}}
{{- define "trivium.services" -}}
{{- $services := append (include "trivium.backends" . | fromJsonArray) "orchestrator" -}}
{{- toJson (ternary (append $services "gateway") $services .Values.gateway.enabled) -}}
{{- end -}}

{{/* The port that a component takes calls at: the gateway HTTP, the other services gRPC. */}}
{{- define "trivium.port" -}}
{{ get (dict "orchestrator" "50050" "slm" "50051" "llm" "50052" "router" "50053" "redis" "6379" "gateway" "8000") .component }}
{{- end -}}

{{/* Name of that port. */}}
{{- define "trivium.portName" -}}
{{- if eq .component "gateway" }}{{ include "trivium.httpScheme" .root }}{{ else }}grpc{{ end -}}
{{- end -}}

{{/* The port of a service's metrics: the gateway's are at its HTTP port, and with HTTPS where its health is. */}}
{{- define "trivium.metricsPort" -}}
{{- if ne .component "gateway" -}}
{{ .root.Values.metrics.port }}
{{- else -}}
{{ include (ternary "trivium.healthPort" "trivium.port" .root.Values.gateway.tls.enabled) . }}
{{- end -}}
{{- end -}}

{{/* Where a component is reached, as host:port. Short, so that the first DNS search domain has it. */}}
{{- define "trivium.address" -}}
{{ include "trivium.name" . }}:{{ include "trivium.port" . }}
{{- end -}}

{{/* A component's image, from .root and .image (light, cpu or gpu). */}}
{{- define "trivium.image" -}}
{{- $images := .root.Values.images -}}
{{- $image := get $images .image -}}
{{- with $images.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $images.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end -}}
