from pathlib import Path

import pytest
from kubernetes import config

from labeler_jobs.jobs.connection import ClusterError, connect


def kubeconfig(path: Path) -> Path:
    path.write_text(
        "{apiVersion: v1, kind: Config, current-context: here, clusters: [{name: c, cluster: {server: 'http://c'}}],"
        " users: [{name: u, user: {}}], contexts: [{name: here, context: {cluster: c, user: u, namespace: mine}},"
        " {name: bare, context: {cluster: c, user: u}}]}"
    )
    return path


@pytest.mark.parametrize(("context", "namespace"), [(None, "mine"), ("bare", "default")])
def test_context_gives_cluster_and_namespace(
    context: str | None, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig(tmp_path / "config")))
    api, found = connect(context)
    assert (api.configuration.host, found) == ("http://c", namespace)


def test_context_that_is_unknown_is_named_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig(tmp_path / "config")))
    with pytest.raises(ClusterError, match="no context 'there'; it has bare, here"):
        connect("there")


@pytest.mark.parametrize("text", [None, "}{", "nothing: here"])
def test_no_cluster_says_so(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if text is not None:
        (tmp_path / "config").write_text(text)
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    with pytest.raises(ClusterError, match=r"(?s)^no cluster: .*KUBECONFIG"):
        connect(None)
