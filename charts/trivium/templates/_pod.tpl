{{/*
What the pods of every component share: who they run as, where they run, what they may write, how they are probed.
*/}}

{{/* As the Pod Security level "restricted" asks. */}}
{{- define "trivium.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ int64 .root.Values.user }}
runAsGroup: {{ int64 .root.Values.user }}
fsGroup: {{ int64 .root.Values.user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "trivium.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The part of a pod's spec that no container is needed for. */}}
{{- define "trivium.podBase" -}}
{{- $values := get .root.Values .component -}}
serviceAccountName: {{ include "trivium.name" . }}
automountServiceAccountToken: false
# The start-up refuses unknown TRIVIUM_* variables, and Services would bring some.
enableServiceLinks: false
securityContext:
  {{- include "trivium.podSecurityContext" . | nindent 2 }}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "trivium.topologySpread" -}}
{{- $context := . -}}
{{- $values := get .root.Values .component -}}
{{- if $values.topologySpread.topologyKeys }}
topologySpreadConstraints:
  {{- range $values.topologySpread.topologyKeys }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "trivium.selectorLabels" $context | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end -}}

{{/* The kind of model cache that a component mounts: the gateway loads nothing. */}}
{{- define "trivium.cacheKind" -}}
{{ ternary "none" .root.Values.modelCache.kind (eq .component "gateway") }}
{{- end -}}

{{/* Secrets that a component has as files, by the names of their volumes. */}}
{{- define "trivium.secretMounts" -}}
{{- $values := .root.Values -}}
{{- if and $values.tls.enabled (ne .component "labeler") }}
tls: {secretName: {{ include "trivium.tlsSecret" . }}, path: {{ include "trivium.tlsPath" . }}}
{{- end }}
{{- if and (eq .component "gateway") $values.gateway.tls.enabled }}
{{- with $values.gateway.tls.secretName }}
https: {secretName: {{ . }}, path: /etc/trivium/https}
{{- end }}
{{- with $values.gateway.tls.clientCaSecret.name }}
client-ca: {secretName: {{ . }}, path: /etc/trivium/client-ca}
{{- end }}
{{- end }}
{{- if and (eq .component "orchestrator") (eq $values.redis.mode "external") $values.redis.external.caSecret.name }}
redis-ca: {secretName: {{ $values.redis.external.caSecret.name }}, path: /etc/trivium/redis}
{{- end }}
{{- if and $values.keys.secretName (has .component (list "gateway" "orchestrator")) }}
keys: {secretName: {{ $values.keys.secretName }}, path: /etc/trivium/keys}
{{- end }}
{{- end -}}

{{- define "trivium.volumes" -}}
{{- $values := get .root.Values .component -}}
{{- $cache := .root.Values.modelCache -}}
{{- $kind := include "trivium.cacheKind" . -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ $values.tmpSize }}
{{- if $values.shmSize }}
# Ranks of a tensor parallel model meet in shared memory, of which containers get 64 MiB otherwise.
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ $values.shmSize }}
{{- end }}
{{- if eq $kind "hostPath" }}
- name: models
  hostPath:
    path: {{ $cache.hostPath }}
    type: Directory
{{- else if eq $kind "existingClaim" }}
- name: models
  persistentVolumeClaim:
    claimName: {{ $cache.existingClaim }}
{{- else if eq $kind "claim" }}
- name: models
  persistentVolumeClaim:
    claimName: {{ include "trivium.fullname" .root }}-models
{{- end }}
{{- with $values.ruleSweepsConfigMap }}
- name: rules
  configMap:
    name: {{ . }}
{{- end }}
{{- with $values.sampleClaim }}
- name: sample
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- with include "trivium.secretMounts" . | fromYaml }}
{{- range $name, $secret := . }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret.secretName }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- end -}}

{{- define "trivium.volumeMounts" -}}
{{- $values := get .root.Values .component -}}
{{- $cache := .root.Values.modelCache -}}
- {name: tmp, mountPath: /tmp}
{{- if $values.shmSize }}
- {name: shm, mountPath: /dev/shm}
{{- end }}
{{- if ne (include "trivium.cacheKind" .) "none" }}
- {name: models, mountPath: {{ $cache.mountPath }}}
{{- end }}
{{- if $values.ruleSweepsConfigMap }}
- {name: rules, mountPath: /etc/trivium/rules, readOnly: true}
{{- end }}
{{- if $values.sampleClaim }}
- {name: sample, mountPath: /var/lib/trivium/sample}
{{- end }}
{{- with include "trivium.secretMounts" . | fromYaml }}
{{- range $name, $secret := . }}
- {name: {{ $name }}, mountPath: {{ $secret.path }}, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* Requests and limits; a component's GPUs are added to its limits. */}}
{{- define "trivium.resources" -}}
{{- $values := get .root.Values .component -}}
{{- $resources := deepCopy $values.resources -}}
{{- if $values.gpus -}}
{{- $limits := set (dict) $values.gpuResource (int $values.gpus) | merge (default (dict) $resources.limits) -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
