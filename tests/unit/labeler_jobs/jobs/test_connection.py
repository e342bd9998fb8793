from pathlib import Path

import pytest
from kubernetes import config

from labeler_jobs.jobs import connection
from labeler_jobs.jobs.connection import ClusterError, connect


def kubeconfig(path: Path) -> Path:
    path.write_text(
        "{apiVersion: v1, kind: Config, current-context: here, clusters: [{name: c, cluster: {server: 'http://c'}}],"
        " users: [{name: u, user: {}}], contexts: [{name: here, context: {cluster: c, user: u, namespace: mine}},"
        " {name: bare, context: {cluster: c, user: u}}]}"
    )
    return path


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the test as in a pod with the mount of a service account, and with a ~/.kube/config."""
    account = tmp_path / "account"
    account.mkdir()
    for name in ("namespace", "token", "ca.crt"):
        (account / name).write_text("the-pods-own")
    monkeypatch.setattr(connection, "_POD_NAMESPACE", account / "namespace")
    monkeypatch.setattr(config.incluster_config, "SERVICE_TOKEN_FILENAME", str(account / "token"))
    monkeypatch.setattr(config.incluster_config, "SERVICE_CERT_FILENAME", str(account / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "in-cluster")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path / ".kube" / "config")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)


@pytest.mark.parametrize(("context", "namespace"), [(None, "mine"), ("bare", "default")])
def test_context_gives_cluster_and_namespace(
    context: str | None, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config")))
    api, found = connect(context)
    assert (api.configuration.host, found) == ("http://c", namespace)


def test_context_that_is_unknown_is_named_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config")))
    with pytest.raises(ClusterError, match="config has no context 'there'; it has bare, here"):
        connect("there")


@pytest.mark.parametrize("text", [None, "}{", "nothing: here"])
def test_no_cluster_says_so(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if text is not None:
        (tmp_path / "config").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(ClusterError, match=r"(?s)^no cluster: .*KUBECONFIG"):
        connect(None)


@pytest.mark.usefixtures("pod")
@pytest.mark.parametrize("given", [None, ""])
def test_in_a_pod_its_own_account_is_meant_where_nothing_is_given(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given is not None:
        monkeypatch.setenv("KUBECONFIG", given)
    api, namespace = connect(None)
    assert (api.configuration.host, namespace) == ("https://in-cluster:443", "the-pods-own")


@pytest.mark.usefixtures("pod")
def test_in_a_pod_kubeconfig_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config")))
    api, namespace = connect(None)
    assert (api.configuration.host, namespace) == ("http://c", "mine")


@pytest.mark.usefixtures("pod")
def test_in_a_pod_a_context_wins() -> None:
    api, namespace = connect("bare")
    assert (api.configuration.host, namespace) == ("http://c", "default")


@pytest.mark.usefixtures("pod")
def test_out_of_a_pod_the_usual_file_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_POD_NAMESPACE", tmp_path / "nowhere")
    api, namespace = connect(None)
    assert (api.configuration.host, namespace) == ("http://c", "mine")


@pytest.mark.usefixtures("pod")
def test_pod_that_does_not_know_its_cluster_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(ClusterError, match=r"^no cluster: .*KUBECONFIG"):
        connect(None)
