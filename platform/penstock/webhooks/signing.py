"""Signatures as Standard Webhooks 1.0.0 says, on top of its reference library.

A ``Signer`` holds one key, or several while one rotates: it signs with all of them and accepts any. The library
is wrapped because it takes a single key, signs aware datetimes outside UTC wrongly, decodes damaged keys silently and
lets ``ValueError`` escape for a malformed header.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from penstock import clock, private
from penstock.errors import ConfigError, SignatureInvalid
from penstock.settings import Settings

PREFIX = "whsec_"
#: Key sizes that Standard Webhooks allows, bytes.
KEY_BYTES = range(24, 65)

_GENERATE = f"generate one: echo {PREFIX}$(openssl rand -base64 32)"


class Signer:
    """Signs and verifies with one or more ``whsec_…`` keys, newest first. Its repr shows no key."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ConfigError("no webhook signing key is set", fix=_GENERATE)
        self._webhooks = [Webhook(_decode(key)) for key in keys]

    def __repr__(self) -> str:
        return f"Signer(keys={len(self._webhooks)})"

    def sign(self, message_id: str, body: str, *, at: float) -> dict[str, str]:
        """The three headers for ``body``, signed at Unix time ``at``, one signature per key."""
        second = int(at)
        # An aware UTC datetime: the library replaces the zone instead of converting.
        moment = clock.as_datetime(second)
        assert moment is not None
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(second),
            "webhook-signature": " ".join(webhook.sign(message_id, moment, body) for webhook in self._webhooks),
        }

    def verify(self, body: bytes | str, headers: Mapping[str, str]) -> Any:
        """Check a received message and return its decoded body.

        Raises ``SignatureInvalid`` when a header is missing or malformed, when the message is older or newer than
        five minutes, or when no signature fits. Does not protect from replays within these five minutes: remember
        the ``webhook-id`` for that.
        """
        reason = "no key fits the signature"
        for webhook in self._webhooks:
            try:
                return webhook.verify(body, dict(headers))
            except WebhookVerificationError as error:
                reason = str(error)
            except ValueError:  # bad base64, a signature without its version, a body that is not UTF-8 JSON
                reason = "malformed header or body"
        raise SignatureInvalid(
            f"the webhook's signature is not valid: {reason}", fix="compare the signing key on both sides"
        )


def new_key() -> str:
    """A fresh random signing key."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def load_signer(settings: Settings) -> Signer:
    """The signer that the settings describe.

    Without ``webhook.secrets`` a deployment whose database lives under ``home`` signs with a key of its own, kept in
    ``home/webhook.secret`` and generated on first use. Any other deployment may have several dispatchers that must
    agree, so there the key must be set: ``ConfigError``.
    """
    configured = [secret.get_secret_value() for secret in settings.webhook.secrets]
    if configured:
        return Signer(configured)
    if settings.database_url is not None:
        raise ConfigError(
            "no webhook signing key is set",
            fix=f"""set PENSTOCK_WEBHOOK__SECRETS='["{PREFIX}…"]'; {_GENERATE}""",
        )
    return Signer([local_key(settings.home)])


def local_key(home: Path) -> str:
    """The key of an embedded deployment, generated on first use; the file is readable by its owner only."""
    path = home / "webhook.secret"
    with contextlib.suppress(FileNotFoundError):
        return _read_private(path)
    private.folder(home)
    handle, name = tempfile.mkstemp(dir=home, prefix=".webhook.")  # created with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(new_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link fails where the file exists: of two processes that start together, one wins and both read its key.
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)  # noqa: PTH108  (mkstemp gives a str)
    return _read_private(path)


def _read_private(path: Path) -> str:
    private.close(path)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others", fix=f"chmod 600 {path}")
    return path.read_text(encoding="utf-8").strip()


def _decode(key: str) -> bytes:
    # The library decodes leniently: it would sign with whatever is left of a key with a typo in it.
    try:
        if not key.startswith(PREFIX):
            raise ValueError
        raw = base64.b64decode(key.removeprefix(PREFIX) + "=" * (-len(key.removeprefix(PREFIX)) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise ConfigError(f"a webhook signing key is not {PREFIX} followed by base64", fix=_GENERATE) from None
    if len(raw) not in KEY_BYTES:
        raise ConfigError(f"a webhook signing key must have 24 to 64 bytes, not {len(raw)}", fix=_GENERATE)
    return raw
