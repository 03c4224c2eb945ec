"""The server's secret: a file of 32 random bytes (hex) that only its owner reads; for keys and cache salts."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from pathlib import Path

from multiflora_platform.settings import ConfigurationError
from multiflora_platform.storage.connections import private_folder

SECRET_NAME = "secret"
_BYTES = 32


class Secret:
    """HMAC-SHA256 under the secret, one domain for each purpose, so that no value of one can stand for another's."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def load(cls, data_dir: Path) -> Secret:
        """Read data_dir/secret, or make it; of two processes that make it at once, both use the first's."""
        path = private_folder(data_dir) / SECRET_NAME
        if not path.exists():
            _publish(path, secrets.token_hex(_BYTES))
        path.chmod(0o600)
        return cls(bytes.fromhex(path.read_text(encoding="ascii").strip()))

    @classmethod
    def adopt(cls, file: Path, data_dir: Path) -> None:
        """Makes the secret of the file, 64 hex digits that several hosts share, data_dir's own. Raises
        ConfigurationError, also where the folder has another one, under which its keys were stored."""
        try:
            text = file.expanduser().read_text(encoding="ascii").strip()
            shared = bytes.fromhex(text)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"--secret-file {file}: {error}; make one with `openssl rand -hex 32`") from None
        if len(shared) != _BYTES:
            raise ConfigurationError(f"--secret-file {file}: {len(shared)} bytes; make it with `openssl rand -hex 32`")
        path = private_folder(data_dir) / SECRET_NAME
        if not path.exists():
            _publish(path, text)
        if not hmac.compare_digest(bytes.fromhex(path.read_text(encoding="ascii").strip()), shared):
            raise ConfigurationError(
                f"--secret-file {file} is not the secret in {path}, under which keys were stored; give all hosts a "
                "copy of that one, or this host another --data-dir"
            )

    def derive(self, purpose: str, value: str) -> str:
        """64 hex digits."""
        return hmac.digest(self._key, f"{purpose}\0{value}".encode("utf-8", "surrogatepass"), "sha256").hex()

    def sealed(self, purpose: str, data: bytes) -> str:
        """Text that nobody else can make, though anybody can read it: hex digits, a dot, their HMAC."""
        return f"{data.hex()}.{self.derive(purpose, data.hex())}"

    def unsealed(self, purpose: str, text: str) -> bytes | None:
        """None: it was not sealed for this purpose."""
        body, _, signature = text.partition(".")
        given = signature.encode("utf-8", "surrogatepass")
        return bytes.fromhex(body) if hmac.compare_digest(self.derive(purpose, body).encode(), given) else None


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
