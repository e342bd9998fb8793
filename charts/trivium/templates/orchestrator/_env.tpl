{{/* Where the orchestrator finds its peers, and what follows from the models' values. */}}
{{- define "trivium.orchestratorEnv" -}}
{{- range $peer := include "trivium.backends" . | fromJsonArray }}
- name: TRIVIUM_ORCHESTRATOR_{{ upper $peer }}
  value: {{ include "trivium.address" (dict "root" $ "component" $peer) }}
{{- end }}
{{- $slm := .Values.slm.settings }}
{{- if not .Values.orchestrator.settings.tokenizer }}
- name: TRIVIUM_ORCHESTRATOR_TOKENIZER
  value: {{ $slm.model | quote }}
{{- with $slm.revision }}
- name: TRIVIUM_ORCHESTRATOR_TOKENIZER_REVISION
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- if .Values.orchestrator.sampleClaim }}
- {name: TRIVIUM_ORCHESTRATOR_SAMPLE_DIR, value: /var/lib/trivium/sample}
{{- end }}
{{- if eq .Values.redis.mode "bundled" }}
- name: TRIVIUM_ORCHESTRATOR_REDIS_URL
  value: redis://{{ include "trivium.address" (dict "root" . "component" "redis") }}/0
- name: TRIVIUM_ORCHESTRATOR_REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "trivium.redisSecret" . }}, key: {{ .Values.redis.passwordSecret.key }}}
{{- else if eq .Values.redis.mode "external" }}
- name: TRIVIUM_ORCHESTRATOR_REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.external.urlSecret.name }}, key: {{ .Values.redis.external.urlSecret.key }}}
{{- with .Values.redis.external.caSecret }}
{{- if .name }}
- {name: TRIVIUM_ORCHESTRATOR_REDIS_CA_FILE, value: /etc/trivium/redis/{{ .key }}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
