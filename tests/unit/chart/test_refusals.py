"""Values that don't work are refused before anything is installed, with a message that says what to do."""

from __future__ import annotations

import re

import pytest

from tests.unit.chart.harness.helm import CERT_MANAGER, CHART, GATEWAY_API, KEDA, Helm, Refused, Values, values

_R1 = "values-r1-1.5b-32b"
_ROUTER = "router.settings.checkpoint=/models/r"

BAD: dict[str, tuple[Values, str]] = {
    # The schema's.
    "unknown key": (values("slmm.replicas=1"), "additional properties 'slmm' not allowed"),
    "unknown key deep down": (
        values("llm.autoscaling.maxReplica=3"),
        "additional properties 'maxReplica' not allowed",
    ),
    "unknown setting": (values("llm.settings.kvCacheToken=3"), "additional properties 'kvCacheToken' not allowed"),
    "setting that the chart owns": (values("slm.settings.port=1"), "additional properties 'port' not allowed"),
    "setting out of range": (values("slm.settings.maxBatchSize=0"), "/slm/settings/maxBatchSize"),
    "setting of another type": (values("llm.settings.dtype=int3"), "/llm/settings/dtype"),
    "bad quantity": (values("llm.resources.limits.memory=12GB"), "/llm/resources/limits/memory"),
    "bad size": (values("modelCache.claim.size=lots"), "/modelCache/claim/size"),
    "bad shared memory": (values("llm.shmSize=16 Gi"), "/llm/shmSize"),
    "GPUs among the resources": (
        values(text="llm: {resources: {limits: {nvidia.com/gpu: 2}}}"),
        "additional properties 'nvidia.com/gpu' not allowed",
    ),
    "GPU for the gateway": (values("gateway.gpus=1"), "additional properties 'gpus' not allowed"),
    "host with a path": (values("gateway.ingress.host=llm.example.com/v1"), "/gateway/ingress/host"),
    "timeout without a unit": (values(text="gateway: {httpRoute: {requestTimeout: '600'}}"), "/gateway/httpRoute"),
    "no replicas": (values("orchestrator.replicas=0"), "/orchestrator/replicas"),
    "both autoscalers": (values("llm.autoscaling.kind=keda+hpa"), "'none', 'keda', 'hpa'"),
    "unknown image": (values("slm.image=light"), "'cpu', 'gpu'"),
    "root": (values("user=0"), "/user"),
    "tag instead of a digest": (values("images.cpu.digest=latest"), "/images/cpu/digest"),
    "setting among the variables": (
        values("slm.env.TRIVIUM_SLM_DEVICE=cuda"),
        "invalid propertyName 'TRIVIUM_SLM_DEVICE'",
    ),
    "variable that the chart sets": (values("llm.env.HF_HOME=/mnt"), "invalid propertyName 'HF_HOME'"),
    "labelling variable that the chart sets": (values("labeler.env.HF_TOKEN=x"), "invalid propertyName 'HF_TOKEN'"),
    "pod label that the chart selects by": (
        values(text="slm: {podLabels: {app.kubernetes.io/component: other}}"),
        "invalid propertyName 'app.kubernetes.io/component'",
    ),
    "Redis label that the chart selects by": (
        values(text="redis: {podLabels: {app.kubernetes.io/name: other}}"),
        "invalid propertyName 'app.kubernetes.io/name'",
    ),
    "common label that the chart sets": (
        values(text="commonLabels: {app.kubernetes.io/version: '2'}"),
        "invalid propertyName 'app.kubernetes.io/version'",
    ),
    "empty model": (values("llm.settings.model="), "/llm/settings/model"),
    "rule that isn't written as one": (
        values("orchestrator.settings.rule=entropy:0.7"),
        "/orchestrator/settings/rule",
    ),
    "no rule": (values("orchestrator.settings.rule="), "/orchestrator/settings/rule"),
    "relative path of a sweep": (
        values("orchestrator.settings.ruleSweeps={rules/entropy.json}"),
        "/orchestrator/settings/ruleSweeps",
    ),
    "relative mount path": (values("modelCache.mountPath=models"), "/modelCache/mountPath"),
    "address without a scheme": (values("autoscaling.prometheusAddress=prom:9090"), "/autoscaling/prometheusAddress"),
    "eviction policy that fills up": (values("redis.evictionPolicy=noeviction"), "/redis/evictionPolicy"),
    # The templates'.
    "tensor parallel 2 with one GPU": (
        values(_ROUTER, "llm.gpus=1", preset=_R1, apis=(KEDA,)),
        "llm.settings.tpSize is 2, but llm.gpus is 1: each rank needs a GPU of its own",
    ),
    "tensor parallel with transformers": (
        values("llm.settings.tpSize=2,llm.gpus=2,llm.shmSize=1Gi"),
        "llm.settings.tpSize is 2: tensor parallel models need llm.settings.engine sglang",
    ),
    "tensor parallel without shared memory": (
        values(_ROUTER, "llm.shmSize=", preset=_R1, apis=(KEDA,)),
        "its ranks need shared memory, set llm.shmSize",
    ),
    "cuda without a GPU": (
        values("slm.settings.device=cuda,slm.image=gpu"),
        "slm.settings.device is cuda, but slm.gpus is 0",
    ),
    "cuda in the image for CPUs": (
        values("slm.settings.device=cuda,slm.gpus=1"),
        "the image cpu has no CUDA, set slm.image to gpu",
    ),
    "sglang in the image for CPUs": (
        values("llm.settings.engine=sglang"),
        "llm.settings.engine is sglang: the image cpu has no SGLang, set llm.image to gpu",
    ),
    "metrics at the port for calls": (
        values("metrics.port=50051"),
        "metrics.port is 50051, which slm takes calls at: set another",
    ),
    "GPUs that no rank uses": (
        values(_ROUTER, "llm.gpus=4", preset=_R1, apis=(KEDA,)),
        "llm.gpus is 4, but llm.settings.tpSize uses 2 of them",
    ),
    "keda without its CRDs": (
        values(_ROUTER, preset=_R1),
        "this cluster has no keda.sh/v1alpha1: install KEDA, or set the kind to hpa or none",
    ),
    "keda without a Prometheus": (
        values("llm.autoscaling.kind=keda,metrics.enabled=true", apis=(KEDA,)),
        "set autoscaling.prometheusAddress to the Prometheus that scrapes these pods",
    ),
    "keda without metrics": (
        values(
            "llm.autoscaling.kind=keda,autoscaling.prometheusAddress=http://p:9090,metrics.enabled=false",
            apis=(KEDA,),
        ),
        "which scales by metrics: set metrics.enabled",
    ),
    "hpa without a CPU request": (
        values("llm.autoscaling.kind=hpa,llm.resources.requests.cpu=null"),
        "set llm.resources.requests.cpu",
    ),
    "more replicas than the most": (
        values("slm.autoscaling.kind=hpa,slm.autoscaling.minReplicas=9"),
        "slm.autoscaling.minReplicas is 9, but maxReplicas is 4",
    ),
    "drain that no autoscaler waits for": (
        values("slm.autoscaling.kind=hpa,slm.settings.drainTimeoutS=1800"),
        "autoscalers can't wait for drains of more than 30 minutes",
    ),
    "update that can't begin": (
        values("llm.rollout.maxSurge=0%"),
        "llm.rollout.maxSurge and maxUnavailable are both 0: an update could never begin",
    ),
    "key for a test that nobody asks for": (
        values("test.keySecret.name=mine"),
        "test.keySecret.name is set, but keys.secretName isn't",
    ),
    "TLS without certificates": (
        values("tls.enabled=true,tls.secretNames.llm=mine"),
        "there are no certificates for slm, router, orchestrator, gateway: set tls.certManager.issuerRef.name",
    ),
    "certificates without cert-manager": (
        values("tls.enabled=true,tls.certManager.issuerRef.name=ca"),
        "this cluster has no cert-manager.io/v1: install cert-manager, or set tls.secretName",
    ),
    "metrics at the port for health": (
        values("tls.enabled=true,tls.secretName=shared,metrics.port=50059"),
        "metrics.port is 50059, which health is checked at: set another",
    ),
    "lifetime without a unit": (
        values("tls.certManager.issuerRef.name=ca,tls.certManager.duration=90", apis=(CERT_MANAGER,)),
        "/tls/certManager/duration",
    ),
    "HTTPS without a certificate": (
        values("gateway.tls.enabled=true"),
        "gateway.tls.enabled is true, but there is no certificate: set gateway.tls.secretName, or tls.enabled",
    ),
    "certificates of clients without HTTPS": (
        values("gateway.tls.clientCaSecret.name=callers"),
        "gateway.tls.clientCaSecret.name is set, but gateway.tls.enabled is false",
    ),
    "policy of TLS without the Gateway API that has it": (
        values("gateway.httpRoute.caConfigMap=ca", apis=(GATEWAY_API,)),
        "this cluster has no BackendTLSPolicy of gateway.networking.k8s.io/v1",
    ),
    "ingress to no gateway": (
        values("gateway.enabled=false,gateway.ingress.enabled=true"),
        "gateway.ingress.enabled is true, but gateway.enabled is false",
    ),
    "route to no gateway": (
        values("gateway.enabled=false,gateway.httpRoute.enabled=true", apis=(GATEWAY_API,)),
        "gateway.httpRoute.enabled is true, but gateway.enabled is false",
    ),
    "route without the Gateway API": (
        values("gateway.httpRoute.enabled=true,gateway.httpRoute.parentRefs[0].name=public"),
        "gateway.httpRoute.enabled is true, but this cluster has no gateway.networking.k8s.io/v1",
    ),
    "route that hangs on nothing": (
        values("orchestrator.grpcRoute.enabled=true", apis=(GATEWAY_API,)),
        "set orchestrator.grpcRoute.parentRefs to the Gateways that it hangs on",
    ),
    "no checkpoint of the router": (
        values(preset=_R1, apis=(KEDA,)),
        "router.settings.checkpoint is empty: name the directory of a router that was trained for this pair, e.g. in "
        "modelCache.mountPath, or do without: router.enabled=false, orchestrator.settings.rule=entropy",
    ),
    "no router and no rule": (
        values("router.enabled=false"),
        "router.enabled is false, but orchestrator.settings.rule is router: set a rule that asks none",
    ),
    "no router and its rule": (
        values("router.enabled=false,orchestrator.settings.rule=router:threshold=0.4"),
        "router.enabled is false, but orchestrator.settings.rule is router: set a rule that asks none",
    ),
    "shadow without a second router": (
        values("orchestrator.settings.shadowRule=router:threshold=0.4"),
        "orchestrator.settings.shadowRule is router: set router.settings.shadowCheckpoint",
    ),
    "second router in a cache that isn't mounted": (
        values("router.settings.shadowCheckpoint=/models/other"),
        "router.settings.shadowCheckpoint is /models/other, but modelCache.kind is none",
    ),
    "sweep in a ConfigMap that isn't named": (
        values("orchestrator.settings.ruleSweeps={/etc/trivium/rules/entropy.json}"),
        "orchestrator.settings.ruleSweeps has /etc/trivium/rules/entropy.json: set orchestrator.ruleSweepsConfigMap",
    ),
    "sweep in a cache that isn't mounted": (
        values("orchestrator.settings.ruleSweeps={/models/entropy.json}"),
        "orchestrator.settings.ruleSweeps has /models/entropy.json, but modelCache.kind is none",
    ),
    "gated models without a token": (values("huggingFace.gated=true"), "set huggingFace.tokenSecret.name"),
    "external redis without a Secret": (values("redis.mode=external"), "set redis.external.urlSecret.name"),
    "existing claim without a name": (values("modelCache.kind=existingClaim"), "set modelCache.existingClaim"),
    "host path without a path": (values("modelCache.kind=hostPath"), "set modelCache.hostPath"),
    "model in a cache that isn't mounted": (
        values("llm.settings.model=/models/mine"),
        "llm.settings.model is /models/mine, but modelCache.kind is none",
    ),
    "download while offline": (
        values("llm.settings.model=Qwen/Qwen3-8B,huggingFace.offline=true"),
        "there is nowhere to load it from",
    ),
    "pod monitor without the operator": (
        values("metrics.enabled=true,metrics.podMonitor.enabled=true"),
        "this cluster has no monitoring.coreos.com/v1",
    ),
    "labelling on GPUs in the image for CPUs": (
        values("labeler.enabled=true,labeler.gpus=1"),
        "set labeler.image to gpu",
    ),
    "depth above the largest": (
        values("orchestrator.settings.runAheadDepth=99"),
        "runAheadDepth is greater than maxRunAheadDepth",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_values_are_refused_and_the_message_names_them(helm: Helm, case: str) -> None:
    bad, message = BAD[case]
    with pytest.raises(Refused) as refusal:
        helm.render(bad)
    assert message in str(refusal.value)


def test_several_problems_are_told_at_once(helm: Helm) -> None:
    with pytest.raises(Refused) as refusal:
        helm.render(values("huggingFace.gated=true,redis.mode=external,modelCache.kind=hostPath"))
    assert str(refusal.value).count("\n  - ") == 3


def test_older_kubernetes_is_refused(helm: Helm) -> None:
    with pytest.raises(Refused, match=re.escape("chart requires kubeVersion: >=1.30.0-0")):
        helm.run("template", "demo", str(CHART), "--kube-version", "1.29.0")
