"""HTTPS with a certificate made here: served, and refused before the start where it cannot be."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.platform.gateway.house import House

from multiflora_platform.server.http_server import HttpServer, address, listen, require_certificate
from multiflora_platform.settings import ConfigurationError, Settings

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, Path]:
    """The two settings: a key and a certificate for 127.0.0.1 that it signed itself."""
    made = {"ssl_keyfile": tmp_path / "key.pem", "ssl_certfile": tmp_path / "certificate.pem"}
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    files = ["-keyout", str(made["ssl_keyfile"]), "-out", str(made["ssl_certfile"])]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run([*command, *subject, *files], check=True, capture_output=True)
    return made


async def test_the_server_speaks_https(make_house: Callable[..., House], certificate: dict[str, Path]) -> None:
    house = make_house({**certificate, "port": 0})
    settings = house.services.settings
    require_certificate(settings)
    with listen(settings) as listener:
        url = address(listener, settings)
        assert url.startswith("https://127.0.0.1:")
        server = HttpServer(house.app, house.services)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        trusting = ssl.create_default_context(cafile=certificate["ssl_certfile"])
        async with asyncio.timeout(20):
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
        async with httpx.AsyncClient(base_url=url, verify=trusting) as client:
            assert (await client.get("/ping")).status_code == 200
            headers = {"Authorization": "Bearer mf-admin"}
            assert (await client.get("/version", headers=headers)).json() == {"version": house.app.version}
        async with httpx.AsyncClient(base_url=url.replace("https", "http")) as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/ping")
        server.should_exit = True
        await serving
    await house.services.grammars.close()


@pytest.mark.parametrize("broken", ["ssl_keyfile", "ssl_certfile", "ssl_ca_certs"])
@pytest.mark.parametrize("content", [None, "no PEM"])
def test_a_certificate_that_cannot_be_used_is_refused(
    certificate: dict[str, Path], tmp_path: Path, broken: str, content: str | None
) -> None:
    bad = tmp_path / "bad.pem"
    if content is not None:
        bad.write_text(content)
    with pytest.raises(ConfigurationError, match=r"--ssl-certfile .* give a PEM certificate"):
        require_certificate(Settings(**{**certificate, broken: bad}))


def test_unknown_ciphers_are_refused(certificate: dict[str, Path]) -> None:
    with pytest.raises(ConfigurationError, match="HTTPS"):
        require_certificate(Settings(**certificate, ssl_ciphers="NO-SUCH"))
