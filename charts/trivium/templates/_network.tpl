{{/*
NetworkPolicies: one ingress policy per edge of the call graph, and one egress policy per component that lists its own
edges. A component without an edge in a direction can't be reached, or reach anything, that way. A list of peers without
any leaves its rule out: Kubernetes takes an empty list for everyone.
*/}}

{{/* Lets .from call .component at its port. */}}
{{- define "trivium.ingressEdge" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "trivium.fullname" .root }}-{{ .from }}-to-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "trivium.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "trivium.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector:
            matchLabels:
              {{- include "trivium.selectorLabels" (dict "root" .root "component" .from) | nindent 14 }}
      ports:
        - {protocol: TCP, port: {{ include "trivium.port" . }}}
{{- end -}}

{{/* Lets the clients call .component at its port, and the pods of `helm test`. */}}
{{- define "trivium.clientsEdge" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "trivium.fullname" .root }}-clients-to-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "trivium.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "trivium.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - ports:
        - {protocol: TCP, port: {{ include "trivium.port" . }}}
      {{- with .root.Values.networkPolicy.clients }}
      from:
        {{- toYaml . | nindent 8 }}
        - podSelector:
            matchLabels:
              {{- include "trivium.selectorLabels" (dict "root" $.root "component" "test") | nindent 14 }}
      {{- end }}
{{- end -}}

{{/*
Lets .component look up names, and call the components in the list .to. .location is where its model or tokenizer comes
from, which may be the Hugging Face Hub; .more is a rule of its own.
*/}}
{{- define "trivium.egress" -}}
{{- $root := .root -}}
{{- $peers := .root.Values.networkPolicy -}}
{{- $hub := and .location (not (hasPrefix "/" .location)) (not .root.Values.huggingFace.offline) $peers.hubPeers -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "trivium.name" . }}-egress
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "trivium.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "trivium.selectorLabels" . | nindent 6 }}
  policyTypes: [Egress]
  {{- if or .to .more $hub }}
  egress:
    {{- with $peers.dnsPeers }}
    - to:
        {{- toYaml . | nindent 8 }}
      ports:
        - {protocol: UDP, port: 53}
        - {protocol: TCP, port: 53}
    {{- end }}
    {{- range .to }}
    - to:
        - podSelector:
            matchLabels:
              {{- include "trivium.selectorLabels" (dict "root" $root "component" .) | nindent 14 }}
      ports:
        - {protocol: TCP, port: {{ include "trivium.port" (dict "component" .) }}}
    {{- end }}
    {{- with .more }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- if $hub }}
    - to:
        {{- toYaml $peers.hubPeers | nindent 8 }}
      ports:
        - {protocol: TCP, port: 443}
    {{- end }}
  {{- else }}
  egress: []
  {{- end }}
{{- end -}}
