from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from services.common.access import keys as keys_module
from services.common.access.keys import Keys
from services.common.access.keys_file import KeysFileError, TenantLimits, key_digest, new_key
from services.common.access.tenant import Reason, Refusal, Tenant
from tests.serving import until

ACME, OTHER = new_key(), new_key()


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _write(path: Path, keys: dict[str, str], limits: dict[str, object] | None = None, **more: str) -> Path:
    """Writes a file with these keys by tenant, and `more` for each of them."""
    document = {
        "tenants": {tenant: limits or {} for tenant in keys},
        "keys": [{"tenant": tenant, "sha256": key_digest(key).hex(), **more} for tenant, key in keys.items()],
    }
    unfinished = path.with_suffix(".new")
    # Written out: what stands there twice isn't abbreviated.
    unfinished.write_text(yaml.dump(document, Dumper=_Plain))
    unfinished.replace(path)
    return path


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _name(found: Tenant | Refusal) -> str:
    return found.name if isinstance(found, Tenant) else found.reason.value


def test_key_leads_to_its_tenant(tmp_path: Path) -> None:
    keys = Keys(_write(tmp_path / "keys", {"acme": ACME, "other": OTHER}))
    assert _name(keys.tenant_of(f"Bearer {ACME}")) == "acme"
    assert _name(keys.tenant_of(f"bearer  {OTHER} ")) == "other"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", ACME, f"Basic {ACME}", f"Bearer {ACME}x", f"Bearer {ACME[:-1]}",
     "Bearer " + "x" * 100_000, f"Bearer {key_digest(ACME).hex()}", "Bearer \udcff"],
    # Keys are drawn anew in each process.
    ids=["none", "empty", "no key", "blank key", "no scheme", "other scheme", "longer", "shorter", "long", "digest",
         "surrogate"],
)  # fmt: skip
def test_anything_else_is_refused_without_quoting_it(tmp_path: Path, header: str | None) -> None:
    keys = Keys(_write(tmp_path / "keys", {"acme": ACME}))
    refused = keys.tenant_of(header)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.UNKNOWN_KEY
    assert keys.num_refused[Reason.UNKNOWN_KEY] == 1
    assert len(refused.message) < 100
    assert ACME not in refused.message


@given(st.text(max_size=60))
def test_no_text_but_the_key_opens_the_door(text: str) -> None:
    assert key_digest(text) != key_digest(ACME) or text == ACME


def test_key_ends_at_its_expiry(tmp_path: Path) -> None:
    now = datetime(2029, 12, 31, 23, 59, tzinfo=UTC)
    path = _write(tmp_path / "keys", {"acme": ACME}, expires="2030-01-01T00:00:00+00:00")
    keys = Keys(path, now=lambda: now)
    assert _name(keys.tenant_of(f"Bearer {ACME}")) == "acme"
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert _name(keys.tenant_of(f"Bearer {ACME}")) == "expired_key"


def test_file_that_changes_lets_new_keys_in_and_old_ones_no_more(tmp_path: Path) -> None:
    path = _write(tmp_path / "keys", {"acme": ACME})
    keys = Keys(path)
    _write(path, {"acme": OTHER})
    assert _name(keys.tenant_of(f"Bearer {OTHER}")) == "unknown_key"
    keys.refresh()
    assert _name(keys.tenant_of(f"Bearer {OTHER}")) == "acme"
    assert _name(keys.tenant_of(f"Bearer {ACME}")) == "unknown_key"


@pytest.mark.parametrize("damage", ["no YAML", "gone"])
def test_bad_new_file_keeps_the_old_keys_and_is_told_without_them(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = _write(tmp_path / "keys", {"acme": ACME})
    keys = Keys(path)
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(f"keys: [{ACME}")
    keys.refresh()
    keys.refresh()
    assert not keys.current
    assert _name(keys.tenant_of(f"Bearer {ACME}")) == "acme"
    [told] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert ACME not in told
    _write(path, {"other": OTHER})
    keys.refresh()
    assert keys.current
    assert _name(keys.tenant_of(f"Bearer {OTHER}")) == "other"


async def test_follow_sees_a_change_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "FOLLOW_INTERVAL_S", 0.01)
    path = _write(tmp_path / "keys", {"acme": ACME})
    keys = Keys(path)
    following = asyncio.create_task(keys.follow())
    _write(path, {"acme": OTHER})
    await until(lambda: _name(keys.tenant_of(f"Bearer {OTHER}")) == "acme", 20)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def test_unusable_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeysFileError):
        Keys(tmp_path / "none")


def test_tenant_keeps_what_it_has_taken_when_the_file_changes(tmp_path: Path) -> None:
    clock = _Clock()
    path = _write(tmp_path / "keys", {"acme": ACME}, {"tokens_per_minute": 60, "max_concurrent_requests": 3})
    keys = Keys(path, clock=clock)
    tenant = keys.tenant_of(f"Bearer {ACME}")
    assert isinstance(tenant, Tenant)
    assert tenant.enter() is None
    tenant.charge(100)
    _write(path, {"acme": OTHER}, {"tokens_per_minute": 60, "max_concurrent_requests": 1})
    keys.refresh()
    assert keys.tenant_of(f"Bearer {OTHER}") is tenant
    refused = tenant.enter()
    assert refused is not None
    assert refused.reason is Reason.TOO_MANY_REQUESTS
    tenant.leave()
    refused = tenant.enter()
    assert refused is not None
    assert refused.reason is Reason.TOO_MANY_TOKENS
    assert refused.retry_after_s == pytest.approx(41.0)
    clock.now = 41.0
    assert tenant.enter() is None


def test_limits_of_one_tenant_are_no_other_ones() -> None:
    acme, other = (Tenant(name, TenantLimits(max_concurrent_requests=1), _Clock()) for name in ("acme", "other"))
    assert [acme.enter(), other.enter()] == [None, None]
    assert acme.enter() is not None
    assert acme.num_running == 1
