{{/*
What routes of the Gateway API share: the Gateways that they hang on, and the names that they are for.
*/}}

{{/* As trivium.metadata, with the annotations of .route. */}}
{{- define "trivium.routeMetadata" -}}
{{ include "trivium.metadata" . }}
{{- with .route.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "trivium.routeParents" -}}
parentRefs:
  {{- toYaml .parentRefs | nindent 2 }}
{{- with .hostnames }}
hostnames:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
