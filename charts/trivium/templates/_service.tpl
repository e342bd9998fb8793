{{/*
The objects of a service: slm, router, llm, orchestrator and gateway differ in their environment and their values alone,
and the gateway in that it is probed over HTTP.
*/}}

{{/*
Seconds that a pod goes on as if nothing was: callers learn from the endpoints that it goes, before it refuses anything.
Connections of clients, which hear nothing of endpoints, get too old meanwhile; gRPC varies their age by a tenth.
*/}}
{{- define "trivium.leavePeriod" -}}
{{- $age := int ((get .root.Values .component).settings.maxConnectionAgeS | default 0) -}}
{{ add (int .root.Values.shutdown.leaveEndpointsS) (ternary (add 2 (div (add (mul 11 $age) 9) 10)) 0 (gt $age 0)) }}
{{- end -}}

{{/* Seconds from the end of a pod to its kill: callers leave it, it drains, and has time to close. */}}
{{- define "trivium.gracePeriod" -}}
{{- $values := get .root.Values .component -}}
{{ add (int (include "trivium.leavePeriod" .)) (ceil $values.settings.drainTimeoutS) (int .root.Values.shutdown.marginS) }}
{{- end -}}

{{/* The port of health checks over gRPC. */}}
{{- define "trivium.probePort" -}}
{{ include (ternary "trivium.healthPort" "trivium.port" .root.Values.tls.enabled) . }}
{{- end -}}

{{/* Whether the process answers, not whether it takes calls: waiting for peers is no reason to kill it. */}}
{{- define "trivium.isAlive" -}}
{{- if eq .component "gateway" -}}
httpGet: {path: /live, port: {{ include "trivium.plainHttpPortName" .root }}}
{{- else -}}
grpc: {port: {{ include "trivium.probePort" . }}, service: liveness}
{{- end -}}
{{- end -}}

{{/* Whether the process takes calls. */}}
{{- define "trivium.isReady" -}}
{{- if eq .component "gateway" -}}
httpGet: {path: /health, port: {{ include "trivium.plainHttpPortName" .root }}}
{{- else -}}
grpc: {port: {{ include "trivium.probePort" . }}}
{{- end -}}
{{- end -}}

{{- define "trivium.probes" -}}
{{- $values := get .root.Values .component -}}
{{- /*
A model service has started once its model is loaded. Orchestrator and gateway have once they answer: how long they then
wait for those behind them isn't in their hands, and a restart wouldn't help.
*/}}
startupProbe:
  {{- include (ternary "trivium.isAlive" "trivium.isReady" (has .component (list "orchestrator" "gateway"))) . | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: {{ max 1 (div (add (int $values.startupTimeoutS) 4) 5) }}
readinessProbe:
  {{- include "trivium.isReady" . | nindent 2 }}
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  {{- include "trivium.isAlive" . | nindent 2 }}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{/* .command is the module that runs, .env the component's own part of the environment. */}}
{{- define "trivium.deployment" -}}
{{- $values := get .root.Values .component -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "trivium.metadata" . | nindent 2 }}
spec:
  {{- if eq $values.autoscaling.kind "none" }}
  replicas: {{ $values.replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  minReadySeconds: {{ .root.Values.rollout.minReadyS }}
  progressDeadlineSeconds: {{ add (int $values.startupTimeoutS) (int .root.Values.rollout.minReadyS) 300 }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: {{ $values.rollout.maxSurge }}
      maxUnavailable: {{ $values.rollout.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "trivium.selectorLabels" . | nindent 6 }}
  template:
    metadata:
      {{- /* No versions among them: a new chart alone restarts nothing. */}}
      labels:
        {{- include "trivium.selectorLabels" . | nindent 8 }}
        {{- with merge (dict) $values.podLabels .root.Values.commonLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        {{- $annotations := dict "kubectl.kubernetes.io/default-container" .component }}
        {{- if and .root.Values.metrics.enabled .root.Values.metrics.annotations }}
        {{- $_ := set $annotations "prometheus.io/scrape" "true" }}
        {{- $_ := set $annotations "prometheus.io/port" (include "trivium.metricsPort" .) }}
        {{- $_ := set $annotations "prometheus.io/path" "/metrics" }}
        {{- end }}
        {{- merge (dict) $values.podAnnotations $annotations | toYaml | nindent 8 }}
    spec:
      {{- include "trivium.podBase" . | nindent 6 }}
      {{- with include "trivium.topologySpread" . | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      terminationGracePeriodSeconds: {{ include "trivium.gracePeriod" . }}
      containers:
        - name: {{ .component }}
          image: {{ include "trivium.image" (dict "root" .root "image" $values.image) }}
          imagePullPolicy: {{ .root.Values.images.pullPolicy }}
          command: [python3, -m, {{ .module }}]
          {{- /* Why it ended stays readable in the pod's status: `trivium doctor --kube` tells it. */}}
          terminationMessagePolicy: FallbackToLogsOnError
          env:
            {{- include "trivium.settingsEnv" . | nindent 12 }}
            {{- with .env }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- if .root.Values.tls.enabled }}
            {{- include "trivium.tlsEnv" . | nindent 12 }}
            {{- end }}
            {{- if and (eq .component "gateway") .root.Values.gateway.tls.enabled }}
            {{- include "trivium.httpsEnv" .root | nindent 12 }}
            {{- end }}
            {{- if and .root.Values.keys.secretName (has .component (list "gateway" "orchestrator")) }}
            - {name: TRIVIUM_{{ upper .component }}_KEYS_FILE, value: /etc/trivium/keys/{{ .root.Values.keys.file }}}
            {{- end }}
            {{- include "trivium.libraryEnv" . | nindent 12 }}
          ports:
            - {name: {{ include "trivium.portName" . }}, containerPort: {{ include "trivium.port" . }}}
            {{- if and .root.Values.metrics.enabled (ne .component "gateway") }}
            - {name: metrics, containerPort: {{ .root.Values.metrics.port }}}
            {{- end }}
            {{- if and (eq .component "gateway") .root.Values.gateway.tls.enabled }}
            - {name: health, containerPort: {{ include "trivium.healthPort" . }}}
            {{- end }}
          {{- include "trivium.probes" . | nindent 10 }}
          lifecycle:
            preStop:
              sleep:
                seconds: {{ include "trivium.leavePeriod" . }}
          resources:
            {{- include "trivium.resources" . | nindent 12 }}
          securityContext:
            {{- include "trivium.securityContext" . | nindent 12 }}
          volumeMounts:
            {{- include "trivium.volumeMounts" . | nindent 12 }}
      volumes:
        {{- include "trivium.volumes" . | nindent 8 }}
{{- end -}}

{{/* What gRPC is on the wire, for whoever stands before a Service. */}}
{{- define "trivium.grpcProtocol" -}}
{{ ternary "https" "kubernetes.io/h2c" .Values.tls.enabled }}
{{- end -}}

{{/* Headless: its callers look up every replica and choose among them themselves. */}}
{{- define "trivium.headlessService" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "trivium.metadata" . | nindent 2 }}
spec:
  clusterIP: None
  selector:
    {{- include "trivium.selectorLabels" . | nindent 4 }}
  ports:
    - {name: grpc, port: {{ include "trivium.port" . }}, targetPort: grpc, appProtocol: {{ include "trivium.grpcProtocol" .root }}}
{{- end -}}

{{- define "trivium.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "trivium.metadata" . | nindent 2 }}
# Nothing in the pod talks to the API server.
automountServiceAccountToken: false
{{- end -}}

{{- define "trivium.podDisruptionBudget" -}}
{{- $values := get .root.Values .component -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "trivium.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ $values.maxUnavailable }}
  # A pod that isn't ready serves no one; keeping it would only block the node's drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "trivium.selectorLabels" . | nindent 6 }}
{{- end -}}
