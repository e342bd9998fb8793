"""The values that every rule of the chart is held against: the presets, and what users change."""

from __future__ import annotations

from tests.unit.chart.harness.helm import CERT_MANAGER, GATEWAY_API, KEDA, PROMETHEUS_OPERATOR, SECURE, Values, values

_ROUTER = "router.settings.checkpoint=/models/routers/mine"
_R1 = "values-r1-1.5b-32b"
_QWEN3 = "values-qwen3-0.6b-32b"
_QWEN3_8B = "llm.settings.model=Qwen/Qwen3-8B,llm.settings.tpSize=1,llm.gpus=1,labeler.gpus=1"
NO_ROUTER = "router.enabled=false,orchestrator.settings.rule=entropy:threshold=0.7"
_COMPONENTS = ("slm", "router", "llm", "orchestrator", "gateway")


def _each(setting: str) -> tuple[str, ...]:
    return tuple(f"{component}.{setting}" for component in _COMPONENTS)


CASES: dict[str, Values] = {
    "defaults": values(),
    "reference": values(preset="values-reference"),
    "r1": values(_ROUTER, preset=_R1, apis=(KEDA,)),
    "qwen3-0.6b-32b": values(_ROUTER, preset=_QWEN3, apis=(KEDA,)),
    "qwen3-0.6b-30b-a3b": values(_ROUTER, "llm.settings.model=Qwen/Qwen3-30B-A3B", preset=_QWEN3, apis=(KEDA,)),
    "qwen3-0.6b-8b": values(_ROUTER, _QWEN3_8B, preset=_QWEN3, apis=(KEDA,)),
    "qwen3-1.7b-8b": values(_ROUTER, _QWEN3_8B, "slm.settings.model=Qwen/Qwen3-1.7B", preset=_QWEN3, apis=(KEDA,)),
    "qwen3-4b-8b": values(_ROUTER, _QWEN3_8B, "slm.settings.model=Qwen/Qwen3-4B", preset=_QWEN3, apis=(KEDA,)),
    "r1 without autoscaling": values(_ROUTER, *_each("autoscaling.kind=none"), preset=_R1),
    "r1 with hpa": values(_ROUTER, *_each("autoscaling.kind=hpa"), preset=_R1),
    "r1 router on a slice of a GPU": values(
        _ROUTER,
        "router.image=gpu,router.gpus=1,router.settings.device=cuda,router.gpuResource=nvidia.com/mig-1g\\.10gb",
        preset=_R1,
        apis=(KEDA,),
    ),
    "r1 with a token": values(
        _ROUTER, "huggingFace.gated=true,huggingFace.tokenSecret.name=hub", preset=_R1, apis=(KEDA,)
    ),
    "r1 on an existing claim": values(
        _ROUTER, "modelCache.kind=existingClaim,modelCache.existingClaim=weights", preset=_R1, apis=(KEDA,)
    ),
    "r1 with a kept claim": values(
        _ROUTER, "modelCache.claim.keep=true,modelCache.claim.storageClassName=fast", preset=_R1, apis=(KEDA,)
    ),
    "r1 with a podmonitor": values(
        _ROUTER,
        "metrics.podMonitor.enabled=true,metrics.annotations=false",
        preset=_R1,
        apis=(KEDA, PROMETHEUS_OPERATOR),
    ),
    "several replicas": values(
        "slm.replicas=2,router.replicas=2,llm.replicas=3,orchestrator.replicas=2,gateway.replicas=2",
        preset="values-reference",
    ),
    "gpus without devices": values("llm.gpus=2,slm.gpus=1", preset="values-reference"),
    "hpa on CPUs": values(*_each("autoscaling.kind=hpa"), preset="values-reference"),
    "keda on CPUs": values(
        *_each("autoscaling.kind=keda"),
        "metrics.enabled=true,autoscaling.prometheusAddress=http://prometheus.monitoring:9090",
        preset="values-reference",
        apis=(KEDA,),
    ),
    "keda for the llm alone": values(
        "llm.autoscaling.kind=keda,metrics.enabled=true",
        "autoscaling.prometheusAddress=http://prometheus.monitoring:9090",
        apis=(KEDA,),
    ),
    "external redis": values("redis.mode=external,redis.external.urlSecret.name=shared-redis"),
    "external redis somewhere": values(
        text="""
redis:
  mode: external
  external:
    urlSecret: {name: shared-redis, key: address}
    port: 6380
    peers: [{ipBlock: {cidr: 10.3.0.0/16}}]
"""
    ),
    "no redis": values("redis.mode=none"),
    "own redis password and image": values("redis.passwordSecret.name=mine,redis.image=redis:7-alpine"),
    "no network policies": values("networkPolicy.enabled=false"),
    "clients of one namespace": values(
        text="""
networkPolicy:
  clients: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: apps}}}]
"""
    ),
    "no peers": values(
        text="""
slm: {settings: {model: a/b}}
llm: {settings: {model: c/d}}
networkPolicy: {prometheus: [], dnsPeers: [], hubPeers: []}
"""
    ),
    "registry and digests": values(
        "images.registry=registry.example.com/ml,images.tag=1.2.3,images.pullSecrets={pull}",
        f"images.cpu.digest=sha256:{'ab' * 32}",
    ),
    "labeler": values("labeler.enabled=true"),
    "labeler on GPUs": values(
        _ROUTER,
        "labeler.enabled=true,labeler.queueName=labels",
        preset=_R1,
        apis=(KEDA,),
    ),
    "labeler for an object store": values(
        "labeler.enabled=true,labeler.volume=false,labeler.secret=store,labeler.verifier.model=Qwen/Qwen3-8B"
    ),
    "labeler for someone": values(
        text="""
labeler:
  enabled: true
  existingClaim: shards
  submitters: [{kind: User, name: ada, apiGroup: rbac.authorization.k8s.io}]
"""
    ),
    "placement": values(
        text="""
llm:
  nodeSelector: {gpu: h100}
  tolerations: [{key: nvidia.com/gpu, operator: Exists}]
  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [
    {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app.kubernetes.io/component: llm}}}]}}
  priorityClassName: serving
  runtimeClassName: nvidia
  podLabels: {team: ml}
  podAnnotations: {example.com/note: "yes"}
  topologySpread:
    topologyKeys: [topology.kubernetes.io/zone, kubernetes.io/hostname]
    whenUnsatisfiable: DoNotSchedule
commonLabels: {cost-center: "42"}
"""
    ),
    "without spread": values(text="slm: {topologySpread: {topologyKeys: []}}"),
    "every kind of setting": values(
        text="""
slm: {settings: {draftHoldMs: 0.5, maxPendingMb: 128, reflection: false, logLevel: DEBUG, prefillChunkLen: 1048576}}
router: {settings: {maxWaitingRows: 4096, keepaliveS: 10}}
orchestrator: {settings: {tokenizer: Qwen/Qwen3-0.6B, tokenizerRevision: main, redisTimeoutMs: 20, llmGraceS: 1.5}}
llm: {env: {NCCL_DEBUG: WARN, OMP_NUM_THREADS: 4}}
gateway: {settings: {modelName: mine, corsOrigins: [https://a.example.com, https://b.example.com], playground: false,
  splitReasoning: false, maxN: 4, maxPrompts: 8, maxBodyMb: 0.5, bodyTimeoutS: 5, headerTimeoutS: 5, retryS: 90,
  defaultTemperature: 0}}
"""
    ),
    "load balancer": values(
        text="orchestrator: {service: {type: LoadBalancer, annotations: {example.com/internal: 'true'}}}"
    ),
    "no gateway": values("gateway.enabled=false"),
    "no router": values(NO_ROUTER),
    "r1 without a router": values(
        NO_ROUTER,
        "orchestrator.ruleSweepsConfigMap=sweeps,orchestrator.settings.ruleSweeps={/etc/trivium/rules/entropy.json}",
        preset=_R1,
        apis=(KEDA,),
    ),
    "shadow and sample": values(
        text="""
router: {settings: {shadowCheckpoint: /opt/trivium/reference/router}}
orchestrator:
  sampleClaim: drafts
  settings: {shadowRule: router, shadowShare: 0.5, sampleShare: 0.05, sampleMaxMb: 9}
"""
    ),
    "no router, but TLS": values(
        NO_ROUTER, "tls.enabled=true,tls.certManager.issuerRef.name=trivium-ca", apis=(CERT_MANAGER,)
    ),
    "gateway on a port of its own": values(
        text="gateway: {service: {type: NodePort, port: 8080, annotations: {example.com/internal: 'true'}}}"
    ),
    "ingress": values(
        text="""
gateway:
  ingress:
    enabled: true
    className: nginx
    host: llm.example.com
    tlsSecret: llm-example-com
    annotations: {nginx.ingress.kubernetes.io/proxy-read-timeout: "600"}
"""
    ),
    "ingress for every name": values("gateway.ingress.enabled=true"),
    "routes of the Gateway API": values(
        text="""
gateway:
  httpRoute:
    enabled: true
    parentRefs: [{name: public, namespace: gateways}]
    hostnames: [llm.example.com]
    requestTimeout: 600s
orchestrator:
  grpcRoute:
    enabled: true
    parentRefs: [{name: public, namespace: gateways}]
    hostnames: [grpc.llm.example.com]
    annotations: {example.com/note: "yes"}
""",
        apis=(GATEWAY_API,),
    ),
    "TLS by cert-manager": values(
        "tls.enabled=true,tls.certManager.issuerRef.name=trivium-ca,tls.certManager.issuerRef.kind=ClusterIssuer",
        apis=(CERT_MANAGER,),
    ),
    "TLS with one Secret": values("tls.enabled=true,tls.secretName=shared,tls.serverName=trivium.internal"),
    "TLS with some Secrets": values(
        "tls.enabled=true,tls.secretNames.llm=mine,tls.certManager.issuerRef.name=trivium-ca",
        apis=(CERT_MANAGER,),
    ),
    "HTTPS by the services' certificates": values(
        "tls.enabled=true,tls.certManager.issuerRef.name=trivium-ca,gateway.tls.enabled=true,gateway.service.port=443",
        "gateway.tls.serverName=llm.internal",
        apis=(CERT_MANAGER,),
    ),
    "HTTPS with a certificate of its own": values(
        text="""
gateway:
  tls: {enabled: true, secretName: public, serverName: llm.example.com, clientCaSecret: {name: callers, key: ca.crt}}
  ingress: {enabled: true, annotations: {nginx.ingress.kubernetes.io/backend-protocol: HTTPS}}
  httpRoute: {enabled: true, parentRefs: [{name: public, namespace: gateways}], caConfigMap: public-ca}
metrics: {podMonitor: {enabled: true}}
test: {certificateSecret: tester}
""",
        apis=(GATEWAY_API, f"{GATEWAY_API}/BackendTLSPolicy", PROMETHEUS_OPERATOR),
    ),
    "secure": values("test.keySecret.name=trivium-test-key", preset=SECURE, apis=(CERT_MANAGER,)),
    "keys alone": values("keys.secretName=trivium-keys,keys.file=keys"),
    "external redis with TLS": values(
        text="""
redis:
  mode: external
  external:
    urlSecret: {name: shared-redis}
    caSecret: {name: redis-ca}
    peers: [{ipBlock: {cidr: 10.3.0.0/16}}]
"""
    ),
    "another name": values("fullnameOverride=demo-trivium,user=1000660000"),
    "metrics": values("metrics.enabled=true"),
}

HOST_PATH = values("modelCache.kind=hostPath,modelCache.hostPath=/srv/models")
"""Apart from the cases: the Pod Security level `restricted` doesn't admit it."""
