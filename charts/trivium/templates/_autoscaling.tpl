{{/*
Autoscaling of one component by its own signal.

  demand       what the replicas work on together: running and waiting work, averaged over a window
  per replica  what one replica takes at once x targetOccupancy
  replicas     ceil(demand / per replica), between minReplicas and maxReplicas

Waiting work alone is no signal: it is zero as soon as the replicas suffice, and would take them away again.

  component     demand counts               one replica takes at once
  slm           sequences being drafted     settings.maxBatchSize
  llm           sequences with a question   settings.maxBatchSize
  router        drafted tokens              settings.maxBatchRows
  orchestrator  requests                    settings.maxActiveRequests
  gateway       requests                    autoscaling.requestsPerReplica
*/}}

{{- define "trivium.demandQuery" -}}
{{- $pods := printf "namespace=%q, pod=~\"%s-.*\"" .root.Release.Namespace (include "trivium.name" .) -}}
{{- $window := .root.Values.autoscaling.averageWindow -}}
{{- $metrics := get (dict
  "slm" (list "trivium_slm_active_sequences" "trivium_slm_waiting_sequences")
  "llm" (list "trivium_llm_active_sequences" "trivium_llm_waiting_sequences")
  "router" (list "trivium_router_batch_rows" "trivium_router_waiting_rows")
  "orchestrator" (list "trivium_orchestrator_active_requests" "trivium_orchestrator_waiting_requests")
  "gateway" (list "trivium_gateway_active_requests")
) .component -}}
{{- $terms := list -}}
{{- range $metrics -}}
{{- $terms = append $terms (printf "(sum(avg_over_time(%s{%s}[%s])) or vector(0))" . $pods $window) -}}
{{- end -}}
{{- join " + " $terms -}}
{{- end -}}

{{- define "trivium.perReplica" -}}
{{- $values := get .root.Values .component -}}
{{- $settings := $values.settings -}}
{{- $capacity := $settings.maxBatchSize | default $settings.maxBatchRows | default $settings.maxActiveRequests | default $values.autoscaling.requestsPerReplica -}}
{{- mulf $capacity $values.autoscaling.targetOccupancy | ceil | int64 | max 1 -}}
{{- end -}}

{{/* A replica more at once where it is needed; one fewer only after the last one had its time to drain. */}}
{{- define "trivium.scalingBehavior" -}}
{{- $values := get .root.Values .component -}}
{{- $grace := int (include "trivium.gracePeriod" .) -}}
scaleUp:
  stabilizationWindowSeconds: 0
  selectPolicy: Max
  policies:
    - {type: Percent, value: 100, periodSeconds: 30}
    - {type: Pods, value: 2, periodSeconds: 30}
scaleDown:
  stabilizationWindowSeconds: {{ max $grace (int $values.autoscaling.scaleDownWindowS) }}
  policies:
    - {type: Pods, value: 1, periodSeconds: {{ $grace }}}
{{- end -}}

{{- define "trivium.scaledObject" -}}
{{- $scaling := (get .root.Values .component).autoscaling -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "trivium.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "trivium.name" . }}
  minReplicaCount: {{ $scaling.minReplicas }}
  maxReplicaCount: {{ $scaling.maxReplicas }}
  pollingInterval: {{ .root.Values.autoscaling.pollingIntervalS }}
  # Without Prometheus the replicas that are there stay.
  fallback:
    failureThreshold: 3
    replicas: {{ $scaling.minReplicas }}
    behavior: currentReplicasIfHigher
  advanced:
    horizontalPodAutoscalerConfig:
      name: {{ include "trivium.name" . }}
      behavior:
        {{- include "trivium.scalingBehavior" . | nindent 8 }}
  triggers:
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ .root.Values.autoscaling.prometheusAddress }}
        query: {{ include "trivium.demandQuery" . | squote }}
        threshold: {{ include "trivium.perReplica" . | quote }}
{{- end -}}

{{/* Without KEDA: by CPU use, which says something where models run on CPUs. */}}
{{- define "trivium.horizontalPodAutoscaler" -}}
{{- $scaling := (get .root.Values .component).autoscaling -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "trivium.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "trivium.name" . }}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  behavior:
    {{- include "trivium.scalingBehavior" . | nindent 4 }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $scaling.targetCpuPercent }}
{{- end -}}

{{- define "trivium.autoscaler" -}}
{{- $kind := (get .root.Values .component).autoscaling.kind -}}
{{- if eq $kind "keda" -}}
{{- include "trivium.scaledObject" . -}}
{{- else if eq $kind "hpa" -}}
{{- include "trivium.horizontalPodAutoscaler" . -}}
{{- end -}}
{{- end -}}
