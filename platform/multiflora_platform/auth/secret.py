"""The server's secret: a file of 32 random bytes (hex) that only its owner reads; for keys and cache salts."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from pathlib import Path

from multiflora_platform.storage.connections import private_folder

SECRET_NAME = "secret"


class Secret:
    """HMAC-SHA256 under the secret, one domain for each purpose, so that no value of one can stand for another's."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def load(cls, data_dir: Path) -> Secret:
        """Read data_dir/secret, or make it; of two processes that make it at once, both use the first's."""
        path = private_folder(data_dir) / SECRET_NAME
        if not path.exists():
            _publish(path, secrets.token_hex(32))
        path.chmod(0o600)
        return cls(bytes.fromhex(path.read_text(encoding="ascii").strip()))

    def derive(self, purpose: str, value: str) -> str:
        """64 hex digits."""
        return hmac.digest(self._key, f"{purpose}\0{value}".encode("utf-8", "surrogatepass"), "sha256").hex()


def _publish(path: Path, text: str) -> None:
    """Complete or not at all: written aside, synced, then linked to its name."""
    aside = path.with_name(f".secret-{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    with contextlib.suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()
