"""S3 as far as an import asks it, on loopback: list a prefix, head and get an object, ranges, ETags."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class FakeS3:
    """objects: by "bucket/key". breaks: of the next GETs of objects, the bytes before the connection is cut."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.breaks: list[int] = []
        self.ranges: list[str | None] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeS3:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(s3) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                bucket, _, key = unquote(url.path).strip("/").partition("/")
                if not self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 Credential=known/"):
                    return self._error(403, "AccessDenied")
                if not any(name.startswith(f"{bucket}/") for name in s3.objects):
                    return self._error(404, "NoSuchBucket")
                return self._object(f"{bucket}/{key}") if key else self._list(bucket, parse_qs(url.query)["prefix"][0])

            do_HEAD = do_GET

            def _list(self, bucket: str, prefix: str) -> None:
                found = [name.partition("/")[2] for name in s3.objects if name.startswith(f"{bucket}/{prefix}")]
                rows = "".join(
                    f"<Contents><Key>{key}</Key><Size>{len(s3.objects[f'{bucket}/{key}'])}</Size>"
                    f"<ETag>{_etag(s3.objects[f'{bucket}/{key}'])}</ETag></Contents>"
                    for key in found
                    if "/" not in key.removeprefix(prefix)
                )
                self._send(200, f"<ListBucketResult>{rows}</ListBucketResult>".encode(), {})

            def _object(self, name: str) -> None:
                data = s3.objects.get(name)
                if data is None:
                    return self._error(404, "NoSuchKey")
                if self.headers.get("If-Match") not in (None, _etag(data)):
                    return self._error(412, "PreconditionFailed")
                wanted = self.headers.get("Range")
                if self.command == "GET":
                    s3.ranges.append(wanted)
                start = int((wanted or "bytes=0-").removeprefix("bytes=").rstrip("-"))
                cut = s3.breaks.pop(0) if s3.breaks and self.command == "GET" else None
                return self._send(206 if wanted else 200, data[start:], {"ETag": _etag(data)}, cut)

            def _error(self, status: int, code: str) -> None:
                self._send(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode(), {})

            def _send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body[:cut])
                if cut is not None:
                    self.connection.close()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
