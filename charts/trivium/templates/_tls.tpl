{{/*
TLS between the services. Each shows its certificate to those that it calls, and to those that call it; all are of one
CA, and for one name, since services are called by the addresses that DNS has for them. Files of a Secret follow it
within a minute or so, and the processes read them again.
*/}}

{{/* The Secret with a component's certificate: its own, or the one that all share, or cert-manager's. */}}
{{- define "trivium.tlsSecret" -}}
{{- $tls := .root.Values.tls -}}
{{ get $tls.secretNames .component | default $tls.secretName | default (printf "%s-tls" (include "trivium.name" .)) }}
{{- end -}}

{{/* Where it is mounted. */}}
{{- define "trivium.tlsPath" -}}
/etc/trivium/tls
{{- end -}}

{{/* What every certificate is for. */}}
{{- define "trivium.tlsServerName" -}}
{{ .Values.tls.serverName | default (printf "%s.%s.svc" (include "trivium.fullname" .) .Release.Namespace) }}
{{- end -}}

{{/* The port of plain health checks beside TLS, which probes can't do. */}}
{{- define "trivium.healthPort" -}}
50059
{{- end -}}

{{- define "trivium.tlsEnv" -}}
{{- $prefix := printf "TRIVIUM_%s" (upper .component) -}}
{{- $path := include "trivium.tlsPath" . -}}
- {name: {{ $prefix }}_TLS_CERT_FILE, value: {{ $path }}/tls.crt}
- {name: {{ $prefix }}_TLS_KEY_FILE, value: {{ $path }}/tls.key}
{{- if ne .component "gateway" }}
- {name: {{ $prefix }}_TLS_CLIENT_CA_FILE, value: {{ $path }}/ca.crt}
- {name: {{ $prefix }}_HEALTH_PORT, value: {{ include "trivium.healthPort" . | quote }}}
{{- end }}
{{- if has .component (list "orchestrator" "gateway") }}
- {name: {{ $prefix }}_TLS_CA_FILE, value: {{ $path }}/ca.crt}
- {name: {{ $prefix }}_TLS_SERVER_NAME, value: {{ include "trivium.tlsServerName" .root }}}
{{- end }}
{{- end -}}

{{/*
HTTPS of the gateway. What clients are shown may be another certificate than what orchestrators are: the first is for a
name of the outside world, of a CA that the world knows.
*/}}

{{/* The Secret with that certificate. */}}
{{- define "trivium.httpsSecret" -}}
{{ .Values.gateway.tls.secretName | default (include "trivium.tlsSecret" (dict "root" . "component" "gateway")) }}
{{- end -}}

{{/* What that certificate is for; empty for the name of the Service. */}}
{{- define "trivium.httpsName" -}}
{{- $tls := .Values.gateway.tls -}}
{{ $tls.serverName | default (ternary "" (include "trivium.tlsServerName" .) (not (empty $tls.secretName))) }}
{{- end -}}

{{/* http or https. */}}
{{- define "trivium.httpScheme" -}}
{{ ternary "https" "http" .Values.gateway.tls.enabled }}
{{- end -}}

{{/* The gateway's port for probes and metrics, by name. */}}
{{- define "trivium.plainHttpPortName" -}}
{{ ternary "health" "http" .Values.gateway.tls.enabled }}
{{- end -}}

{{- define "trivium.httpsEnv" -}}
{{- $tls := .Values.gateway.tls -}}
{{- $path := ternary "/etc/trivium/https" (include "trivium.tlsPath" .) (not (empty $tls.secretName)) -}}
- {name: TRIVIUM_GATEWAY_HTTPS_CERT_FILE, value: {{ $path }}/tls.crt}
- {name: TRIVIUM_GATEWAY_HTTPS_KEY_FILE, value: {{ $path }}/tls.key}
{{- with $tls.clientCaSecret }}
{{- if .name }}
- {name: TRIVIUM_GATEWAY_HTTPS_CLIENT_CA_FILE, value: /etc/trivium/client-ca/{{ .key }}}
{{- end }}
{{- end }}
- {name: TRIVIUM_GATEWAY_HEALTH_PORT, value: {{ include "trivium.healthPort" . | quote }}}
{{- end -}}

{{/* cert-manager's, for a component that has no Secret of anybody else. */}}
{{- define "trivium.certificate" -}}
{{- $manager := .root.Values.tls.certManager -}}
{{- $name := include "trivium.name" . -}}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  {{- include "trivium.metadata" . | nindent 2 }}
spec:
  secretName: {{ include "trivium.tlsSecret" . }}
  issuerRef:
    {{- toYaml $manager.issuerRef | nindent 4 }}
  duration: {{ $manager.duration }}
  renewBefore: {{ $manager.renewBefore }}
  privateKey:
    algorithm: ECDSA
    size: 256
    rotationPolicy: Always
  usages: [digital signature, server auth, client auth]
  dnsNames:
    - {{ include "trivium.tlsServerName" .root }}
    - {{ $name }}
    - {{ $name }}.{{ .root.Release.Namespace }}.svc
    {{- with .root.Values.gateway.tls }}
    {{- if and (eq $.component "gateway") .enabled .serverName (not .secretName) }}
    - {{ .serverName }}
    {{- end }}
    {{- end }}
{{- end -}}
