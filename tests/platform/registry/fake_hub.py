"""Hugging Face's hub as far as an import asks it, on loopback: model info, and files with ranges."""

from __future__ import annotations

import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """repositories: files by name. breaks: of the next file answers, the bytes before the connection is cut.

    asked: the paths, and the ranges of file requests.
    """

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.commit = COMMIT
        self.breaks: list[int] = []
        self.asked: list[tuple[str, str | None]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def set_environment(self) -> None:
        """For processes that are started; and for this one, whose client has read its environment already."""
        os.environ["HF_ENDPOINT"], os.environ["HF_HUB_OFFLINE"] = self.url, "0"

    def __enter__(self) -> FakeHub:
        import huggingface_hub.constants as constants

        self._kept = constants.ENDPOINT, constants.HF_HUB_OFFLINE, constants.HUGGINGFACE_CO_URL_TEMPLATE
        self._environment = os.environ.get("HF_ENDPOINT"), os.environ.get("HF_HUB_OFFLINE")
        constants.ENDPOINT, constants.HF_HUB_OFFLINE = self.url, False
        constants.HUGGINGFACE_CO_URL_TEMPLATE = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        import huggingface_hub.constants as constants

        constants.ENDPOINT, constants.HF_HUB_OFFLINE, constants.HUGGINGFACE_CO_URL_TEMPLATE = self._kept
        for name, value in zip(("HF_ENDPOINT", "HF_HUB_OFFLINE"), self._environment, strict=True):
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        self._server.shutdown()
        self._server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append((self.path, self.headers.get("Range")))
                path = self.path.partition("?")[0]
                if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
                    return self._info(match[1])
                if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                    return self._file(match[1], match[2], match[3])
                return self._missing("EntryNotFound")

            def _info(self, repo: str) -> None:
                files = hub.repositories.get(repo)
                if files is None:
                    return self._missing("RepoNotFound")
                siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                body = {"id": repo, "sha": hub.commit, "siblings": siblings}
                return self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

            def _file(self, repo: str, revision: str, name: str) -> None:
                assert revision == hub.commit, "files come from the pinned commit"
                data = hub.repositories[repo][name]
                start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
                headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
                return self._send(206, data[start:], headers)

            def _missing(self, code: str) -> None:
                self._send(404, b"", {"X-Error-Code": code})

            def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                cut = hub.breaks.pop(0) if status == 206 and hub.breaks else None
                self.wfile.write(body if cut is None else body[:cut])
                if cut is not None and cut < len(body):
                    self.connection.close()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
