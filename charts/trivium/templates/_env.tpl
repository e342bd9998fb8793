{{/*
Environment of the containers. A service's settings become TRIVIUM_<SERVICE>_<SETTING>; the chart adds those that follow
from where the pod runs.
*/}}

{{/* A value as text: whole numbers as such, however large. */}}
{{- define "trivium.scalar" -}}
{{- if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else if kindIs "slice" . -}}
{{- join "," . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- define "trivium.settingsEnv" -}}
{{- $prefix := printf "TRIVIUM_%s" (upper .component) -}}
- {name: {{ $prefix }}_HOST, value: 0.0.0.0}
- {name: {{ $prefix }}_PORT, value: {{ include "trivium.port" . | quote }}}
{{- range $key, $value := (get .root.Values .component).settings }}
{{- /* An empty text or list stands for the process's own default. */}}
{{- if not (or (kindIs "invalid" $value) (eq (include "trivium.scalar" $value) "")) }}
- name: {{ $prefix }}_{{ snakecase $key | upper }}
  value: {{ include "trivium.scalar" $value | quote }}
{{- end }}
{{- end }}
{{- if and .root.Values.metrics.enabled (ne .component "gateway") }}
- {name: {{ $prefix }}_METRICS_PORT, value: {{ .root.Values.metrics.port | quote }}}
{{- end }}
{{- end -}}

{{/*
What libraries below the settings read: the Hugging Face cache and token, and a component's own variables. The gateway,
which strangers talk to, loads nothing and gets no token.
*/}}
{{- define "trivium.libraryEnv" -}}
{{- $cache := .root.Values.modelCache -}}
{{- $huggingFace := .root.Values.huggingFace -}}
{{- if ne .component "gateway" }}
- name: HF_HOME
  value: {{ if eq $cache.kind "none" }}/tmp/huggingface{{ else }}{{ $cache.mountPath }}/huggingface{{ end }}
{{- if $huggingFace.offline }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- with $huggingFace.tokenSecret.name }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: {{ $huggingFace.tokenSecret.key }}}
{{- end }}
{{- end }}
{{- range $name, $value := (get .root.Values .component).env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}
