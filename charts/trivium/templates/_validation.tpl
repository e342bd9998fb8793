{{/*
What the schema can't see: values that each are right and don't fit together. All of them are told at once.
*/}}

{{- define "trivium.validate" -}}
{{- $problems := list -}}
{{- range $component := include "trivium.services" . | fromJsonArray -}}
{{- $context := dict "root" $ "component" $component -}}
{{- $problems = concat $problems (include "trivium.validateDevice" $context | fromJsonArray) -}}
{{- $problems = concat $problems (include "trivium.validateModels" $context | fromJsonArray) -}}
{{- $problems = concat $problems (include "trivium.validateReplicas" $context | fromJsonArray) -}}
{{- end -}}
{{- $problems = concat $problems (include "trivium.validateShared" . | fromJsonArray) -}}
{{- with $problems -}}
{{- fail (printf "\n\nthese values don't fit together:\n  - %s\n" (uniq . | join "\n  - ")) -}}
{{- end -}}
{{- end -}}

{{- define "trivium.validateDevice" -}}
{{- $found := list -}}
{{- $values := get .root.Values .component -}}
{{- $settings := $values.settings -}}
{{- $name := .component -}}
{{- $gpus := int $values.gpus -}}
{{- $ranks := int ($settings.tpSize | default 1) -}}
{{- if and (gt $ranks 1) (ne ($settings.engine | default "transformers") "sglang") -}}
{{- $found = append $found (printf "%s.settings.tpSize is %d: tensor parallel models need %s.settings.engine sglang" $name $ranks $name) -}}
{{- end -}}
{{- if gt $ranks (max 1 $gpus | int) -}}
{{- $found = append $found (printf "%s.settings.tpSize is %d, but %s.gpus is %d: each rank needs a GPU of its own" $name $ranks $name $gpus) -}}
{{- end -}}
{{- if hasPrefix "cuda" ($settings.device | default "cpu") -}}
{{- if not $gpus -}}
{{- $found = append $found (printf "%s.settings.device is %s, but %s.gpus is 0" $name $settings.device $name) -}}
{{- else if gt $gpus $ranks -}}
{{- $found = append $found (printf "%s.gpus is %d, but %s.settings.tpSize uses %d of them" $name $gpus $name $ranks) -}}
{{- end -}}
{{- if ne $values.image "gpu" -}}
{{- $found = append $found (printf "%s.settings.device is %s: the image %s has no CUDA, set %s.image to gpu" $name $settings.device $values.image $name) -}}
{{- end -}}
{{- end -}}
{{- if and (eq ($settings.engine | default "transformers") "sglang") (ne $values.image "gpu") -}}
{{- $found = append $found (printf "%s.settings.engine is sglang: the image %s has no SGLang, set %s.image to gpu" $name $values.image $name) -}}
{{- end -}}
{{- if and (gt $ranks 1) (not $values.shmSize) -}}
{{- $found = append $found (printf "%s.settings.tpSize is %d: its ranks need shared memory, set %s.shmSize" $name $ranks $name) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- define "trivium.validateModels" -}}
{{- $found := list -}}
{{- $name := .component -}}
{{- $cache := .root.Values.modelCache -}}
{{- $settings := (get .root.Values $name).settings -}}
{{- range $path := $settings.ruleSweeps -}}
{{- if and (hasPrefix (printf "%s/" $cache.mountPath) $path) (eq $cache.kind "none") -}}
{{- $found = append $found (printf "%s.settings.ruleSweeps has %s, but modelCache.kind is none: nothing is mounted at %s" $name $path $cache.mountPath) -}}
{{- end -}}
{{- end -}}
{{- range $key := list "model" "checkpoint" "shadowCheckpoint" "slmModel" "tokenizer" -}}
{{- $location := get $settings $key | default "" -}}
{{- if and $location (hasPrefix (printf "%s/" $cache.mountPath) $location) (eq $cache.kind "none") -}}
{{- $found = append $found (printf "%s.settings.%s is %s, but modelCache.kind is none: nothing is mounted at %s" $name $key $location $cache.mountPath) -}}
{{- end -}}
{{- if and $location $.root.Values.huggingFace.offline (not (hasPrefix "/" $location)) (eq $cache.kind "none") -}}
{{- $found = append $found (printf "%s.settings.%s is %s, but huggingFace.offline is true and modelCache.kind is none: there is nowhere to load it from" $name $key $location) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- define "trivium.validateReplicas" -}}
{{- $found := list -}}
{{- $name := .component -}}
{{- $values := get .root.Values $name -}}
{{- $rollout := $values.rollout -}}
{{- if and (has (toString $rollout.maxSurge) (list "0" "0%")) (has (toString $rollout.maxUnavailable) (list "0" "0%")) -}}
{{- $found = append $found (printf "%s.rollout.maxSurge and maxUnavailable are both 0: an update could never begin" $name) -}}
{{- end -}}
{{- $scaling := $values.autoscaling -}}
{{- $autoscaler := .root.Values.autoscaling -}}
{{- if ne $scaling.kind "none" -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- $found = append $found (printf "%s.autoscaling.minReplicas is %d, but maxReplicas is %d" $name (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- if gt (int (include "trivium.gracePeriod" .)) 1800 -}}
{{- $found = append $found (printf "%s.settings.drainTimeoutS: autoscalers can't wait for drains of more than 30 minutes" $name) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $scaling.kind "hpa") (not (dig "requests" "cpu" "" $values.resources)) -}}
{{- $found = append $found (printf "%s.autoscaling.kind is hpa, which scales by CPU use: set %s.resources.requests.cpu" $name $name) -}}
{{- end -}}
{{- if eq $scaling.kind "keda" -}}
{{- if not (.root.Capabilities.APIVersions.Has "keda.sh/v1alpha1") -}}
{{- $found = append $found (printf "%s.autoscaling.kind is keda, but this cluster has no keda.sh/v1alpha1: install KEDA, or set the kind to hpa or none" $name) -}}
{{- end -}}
{{- if not $autoscaler.prometheusAddress -}}
{{- $found = append $found (printf "%s.autoscaling.kind is keda: set autoscaling.prometheusAddress to the Prometheus that scrapes these pods" $name) -}}
{{- end -}}
{{- if not .root.Values.metrics.enabled -}}
{{- $found = append $found (printf "%s.autoscaling.kind is keda, which scales by metrics: set metrics.enabled" $name) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- define "trivium.validateShared" -}}
{{- $found := list -}}
{{- $values := .Values -}}
{{- range $component := append (include "trivium.backends" . | fromJsonArray) "orchestrator" -}}
{{- if and $values.metrics.enabled (eq (toString $values.metrics.port) (include "trivium.port" (dict "component" $component))) -}}
{{- $found = append $found (printf "metrics.port is %v, which %s takes calls at: set another" $values.metrics.port $component) -}}
{{- end -}}
{{- end -}}
{{- $orchestrator := $values.orchestrator.settings -}}
{{- if $values.router.enabled -}}
{{- if not $values.router.settings.checkpoint -}}
{{- $found = append $found "router.settings.checkpoint is empty: name the directory of a router that was trained for this pair, e.g. in modelCache.mountPath, or do without: router.enabled=false, orchestrator.settings.rule=entropy" -}}
{{- end -}}
{{- else if eq ($orchestrator.rule | default "router" | splitList ":" | first | trim) "router" -}}
{{- $found = append $found "router.enabled is false, but orchestrator.settings.rule is router: set a rule that asks none, e.g. entropy" -}}
{{- end -}}
{{- if eq ($orchestrator.shadowRule | default "" | splitList ":" | first | trim) "router" -}}
{{- if not (and $values.router.enabled $values.router.settings.shadowCheckpoint) -}}
{{- $found = append $found "orchestrator.settings.shadowRule is router: set router.settings.shadowCheckpoint to the directory of the second router" -}}
{{- end -}}
{{- end -}}
{{- range $path := $orchestrator.ruleSweeps -}}
{{- if and (hasPrefix "/etc/trivium/rules/" $path) (not $values.orchestrator.ruleSweepsConfigMap) -}}
{{- $found = append $found (printf "orchestrator.settings.ruleSweeps has %s: set orchestrator.ruleSweepsConfigMap to the ConfigMap that holds it" $path) -}}
{{- end -}}
{{- end -}}
{{- if gt (int $orchestrator.runAheadDepth) (int $orchestrator.maxRunAheadDepth) -}}
{{- $found = append $found "orchestrator.settings.runAheadDepth is greater than maxRunAheadDepth" -}}
{{- end -}}
{{- if and (eq $values.modelCache.kind "existingClaim") (not $values.modelCache.existingClaim) -}}
{{- $found = append $found "modelCache.kind is existingClaim: set modelCache.existingClaim to the claim's name" -}}
{{- end -}}
{{- if and (eq $values.modelCache.kind "hostPath") (not $values.modelCache.hostPath) -}}
{{- $found = append $found "modelCache.kind is hostPath: set modelCache.hostPath to a directory of the nodes" -}}
{{- end -}}
{{- if and $values.huggingFace.gated (not $values.huggingFace.tokenSecret.name) -}}
{{- $found = append $found "huggingFace.gated is true: set huggingFace.tokenSecret.name to the Secret that holds the token" -}}
{{- end -}}
{{- if and (eq $values.redis.mode "external") (not $values.redis.external.urlSecret.name) -}}
{{- $found = append $found "redis.mode is external: set redis.external.urlSecret.name to the Secret that holds its URL" -}}
{{- end -}}
{{- if and $values.metrics.podMonitor.enabled (not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) -}}
{{- $found = append $found "metrics.podMonitor.enabled is true, but this cluster has no monitoring.coreos.com/v1: install the Prometheus operator, or leave it to metrics.annotations" -}}
{{- end -}}
{{- if and $values.test.keySecret.name (not $values.keys.secretName) -}}
{{- $found = append $found "test.keySecret.name is set, but keys.secretName isn't: there is nobody who asks for a key" -}}
{{- end -}}
{{- if $values.tls.enabled -}}
{{- $issuer := $values.tls.certManager.issuerRef.name -}}
{{- $missing := list -}}
{{- range include "trivium.services" . | fromJsonArray -}}
{{- if not (or $issuer $values.tls.secretName (get $values.tls.secretNames .)) -}}
{{- $missing = append $missing . -}}
{{- end -}}
{{- end -}}
{{- with $missing -}}
{{- $found = append $found (printf "tls.enabled is true, but there are no certificates for %s: set tls.certManager.issuerRef.name, tls.secretName or tls.secretNames" (join ", " .)) -}}
{{- end -}}
{{- if and $issuer (not ($.Capabilities.APIVersions.Has "cert-manager.io/v1")) -}}
{{- $found = append $found "tls.certManager.issuerRef.name is set, but this cluster has no cert-manager.io/v1: install cert-manager, or set tls.secretName" -}}
{{- end -}}
{{- if and $values.metrics.enabled (eq (toString $values.metrics.port) (include "trivium.healthPort" .)) -}}
{{- $found = append $found (printf "metrics.port is %v, which health is checked at: set another" $values.metrics.port) -}}
{{- end -}}
{{- end -}}
{{- $https := $values.gateway.tls -}}
{{- if and $https.enabled (not (or $https.secretName $values.tls.enabled)) -}}
{{- $found = append $found "gateway.tls.enabled is true, but there is no certificate: set gateway.tls.secretName, or tls.enabled for those of the services" -}}
{{- end -}}
{{- if and $https.clientCaSecret.name (not $https.enabled) -}}
{{- $found = append $found "gateway.tls.clientCaSecret.name is set, but gateway.tls.enabled is false: certificates of clients are seen over TLS alone" -}}
{{- end -}}
{{- if and $values.gateway.httpRoute.caConfigMap (not (.Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1/BackendTLSPolicy")) -}}
{{- $found = append $found "gateway.httpRoute.caConfigMap is set, but this cluster has no BackendTLSPolicy of gateway.networking.k8s.io/v1: install the Gateway API 1.4 or later" -}}
{{- end -}}
{{- range $name, $enabled := dict "ingress" $values.gateway.ingress.enabled "httpRoute" $values.gateway.httpRoute.enabled -}}
{{- if and $enabled (not $values.gateway.enabled) -}}
{{- $found = append $found (printf "gateway.%s.enabled is true, but gateway.enabled is false: there is nothing that it leads to" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $route := dict "gateway.httpRoute" $values.gateway.httpRoute "orchestrator.grpcRoute" $values.orchestrator.grpcRoute -}}
{{- if $route.enabled -}}
{{- if not ($.Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1") -}}
{{- $found = append $found (printf "%s.enabled is true, but this cluster has no gateway.networking.k8s.io/v1: install the Gateway API, or leave the route out" $name) -}}
{{- end -}}
{{- if not $route.parentRefs -}}
{{- $found = append $found (printf "%s.enabled is true: set %s.parentRefs to the Gateways that it hangs on" $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $values.labeler.gpus (ne $values.labeler.image "gpu") -}}
{{- $found = append $found (printf "labeler.gpus is %d: the image %s has no CUDA, set labeler.image to gpu" (int $values.labeler.gpus) $values.labeler.image) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}
