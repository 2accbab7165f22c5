"""Signatures: what we sign the reference library verifies, and what we verify survives hostile input."""

from __future__ import annotations

import base64
import stat
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from penstock.errors import ConfigError, SignatureInvalid
from penstock.settings import Settings, WebhookSettings
from penstock.webhooks.signing import Signer, load_signer, local_key, new_key
from tests.fixtures.patience import PATIENCE_S

BODY = '{"type":"job.succeeded","data":{"output":"ünïcode \\u0000"}}'


def test_the_reference_library_verifies_what_we_sign() -> None:
    key = new_key()
    headers = Signer([key]).sign("msg_1", BODY, at=time.time())
    assert Webhook(key).verify(BODY, headers)["type"] == "job.succeeded"


def test_the_specification_s_own_example() -> None:
    """The vector that the Standard Webhooks specification and its libraries publish."""
    signer = Signer(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    headers = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", '{"test": 2432232314}', at=1614265330)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"


def test_while_a_key_rotates_both_sides_agree() -> None:
    old, new = new_key(), new_key()
    both = Signer([new, old]).sign("msg_1", BODY, at=time.time())
    assert len(both["webhook-signature"].split()) == 2
    for receiver in (Signer([old]), Signer([new]), Signer([old, new])):
        assert receiver.verify(BODY, both)
    assert Signer([new, old]).verify(BODY, Signer([old]).sign("msg_1", BODY, at=time.time()))


def test_a_changed_body_id_or_time_is_refused() -> None:
    signer = Signer([new_key()])
    headers = signer.sign("msg_1", BODY, at=time.time())
    for body, changed in [
        (BODY + " ", headers),
        (BODY, headers | {"webhook-id": "msg_2"}),
        (BODY, headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}),
        (BODY, Signer([new_key()]).sign("msg_1", BODY, at=time.time())),
    ]:
        with pytest.raises(SignatureInvalid):
            signer.verify(body, changed)


@pytest.mark.parametrize("skew_s", [-301, 302])
def test_messages_out_of_time_are_refused(skew_s: int) -> None:
    signer = Signer([new_key()])
    with pytest.raises(SignatureInvalid, match="too"):
        signer.verify(BODY, signer.sign("msg_1", BODY, at=time.time() + skew_s))


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,%%%"},
        {"webhook-signature": "v1,a,b"},
        {"webhook-signature": "v1a,AAAA"},
        {"webhook-signature": ""},
        {"webhook-timestamp": "nan"},
        {"webhook-timestamp": "inf"},
        {"webhook-timestamp": "soon"},
        {"webhook-id": ""},
    ],
)
def test_malformed_headers_are_an_invalid_signature(change: dict[str, str]) -> None:
    signer = Signer([new_key()])
    with pytest.raises(SignatureInvalid):
        signer.verify(BODY, signer.sign("msg_1", BODY, at=time.time()) | change)


def test_a_missing_header_or_a_body_that_is_no_text_is_an_invalid_signature() -> None:
    signer = Signer([new_key()])
    headers = signer.sign("msg_1", BODY, at=time.time())
    for name in headers:
        with pytest.raises(SignatureInvalid):
            signer.verify(BODY, {key: value for key, value in headers.items() if key != name})
    with pytest.raises(SignatureInvalid):
        signer.verify(b"\xff\xfe", headers)


_SIGNER = Signer([new_key()])
_NAMES = st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "x"])


@given(st.binary(max_size=50), st.dictionaries(_NAMES, st.text(max_size=60)))
def test_nothing_but_an_invalid_signature_comes_out(body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(SignatureInvalid):
        _SIGNER.verify(body, headers)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "whsec_",
        "whsec_short",
        "whsec_!" + base64.b64encode(bytes(32)).decode(),
        base64.b64encode(bytes(32)).decode(),
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
    ],
)
def test_a_damaged_key_is_refused_and_not_shown(key: str) -> None:
    """The library would decode what it can and sign with that."""
    with pytest.raises(ConfigError) as caught:
        Signer([key])
    assert not key.removeprefix("whsec_") or key not in str(caught.value)


def test_keys_without_padding_are_fine() -> None:
    key = "whsec_" + base64.b64encode(bytes(range(32))).decode()
    headers = Signer([key.rstrip("=")]).sign("msg_1", BODY, at=time.time())
    assert Signer([key]).verify(BODY, headers)


def test_no_key_is_shown() -> None:
    key = new_key()
    settings = WebhookSettings(secrets=[key])  # type: ignore[list-item]
    assert key not in repr(Signer([key])) + repr(settings) + str(settings)


def test_an_embedded_deployment_makes_a_private_key_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    signer = load_signer(settings)
    path = tmp_path / "home" / "webhook.secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_signer(settings).verify(BODY, signer.sign("msg_1", BODY, at=time.time()))
    assert [entry.name for entry in path.parent.iterdir()] == ["webhook.secret"]


def test_processes_that_start_together_agree_on_the_key(tmp_path: Path) -> None:
    keys: list[str] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait(PATIENCE_S)
        keys.append(local_key(tmp_path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_a_key_that_others_could_read_is_closed(tmp_path: Path) -> None:
    key = local_key(tmp_path)
    (tmp_path / "webhook.secret").chmod(0o644)
    assert local_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "webhook.secret").stat().st_mode) == 0o600


def test_several_dispatchers_need_a_configured_key(tmp_path: Path) -> None:
    """With a shared database each machine would invent its own."""
    settings = Settings(home=tmp_path, database_url="postgresql://db/penstock")
    with pytest.raises(ConfigError) as caught:
        load_signer(settings)
    assert "PENSTOCK_WEBHOOK__SECRETS" in caught.value.fix
    key = new_key()
    settings = Settings(home=tmp_path, database_url="postgresql://db/penstock", webhook={"secrets": [key]})
    assert Signer([key]).verify(BODY, load_signer(settings).sign("msg_1", BODY, at=time.time()))
