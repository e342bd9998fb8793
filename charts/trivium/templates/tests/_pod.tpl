{{/*
Pods of `helm test`. Their labels are those of one component: NetworkPolicies let it call the front doors.
*/}}

{{/* .suffix tells the pods apart; .command, .args and .env are the container's, as YAML; .secrets are volumes by name. */}}
{{- define "trivium.testPod" -}}
{{- $values := .root.Values -}}
apiVersion: v1
kind: Pod
metadata:
  {{- include "trivium.metadata" . | nindent 2 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  activeDeadlineSeconds: {{ add (int $values.test.timeoutS) 60 }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    {{- include "trivium.podSecurityContext" . | nindent 4 }}
  {{- with $values.images.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  containers:
    - name: test
      image: {{ include "trivium.image" (dict "root" .root "image" "light") }}
      imagePullPolicy: {{ $values.images.pullPolicy }}
      command:
        {{- .command | nindent 8 }}
      args:
        {{- .args | nindent 8 }}
      {{- with .env }}
      env:
        {{- . | nindent 8 }}
      {{- end }}
      resources:
        requests: {cpu: 100m, memory: 128Mi}
        limits: {memory: 512Mi}
      securityContext:
        {{- include "trivium.securityContext" . | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- range $name, $secret := .secrets }}
        - {name: {{ $name }}, mountPath: /etc/trivium/{{ $name }}, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 64Mi
    {{- range $name, $secret := .secrets }}
    - name: {{ $name }}
      secret:
        {{- toYaml $secret | nindent 8 }}
    {{- end }}
{{- end -}}
