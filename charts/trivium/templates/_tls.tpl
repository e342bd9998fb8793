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
{{- end -}}
