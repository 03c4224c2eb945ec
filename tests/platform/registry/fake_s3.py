"""S3 as far as imports and the artifact store ask it, on loopback: list, head, get with ranges, put, delete."""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class FakeS3:
    """objects: by "bucket/key". breaks: of the next GETs of objects, the bytes before the connection is cut. puts: the
    keys, in order. written: when each was put."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.breaks: list[int] = []
        self.ranges: list[str | None] = []
        self.puts: list[str] = []
        self.written: dict[str, datetime] = {}
        self.forbidden = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that may use it."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": "known",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

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
                if self._is_refused(bucket):
                    return None
                query = parse_qs(url.query)
                return (
                    self._object(f"{bucket}/{key}")
                    if key
                    else self._list(bucket, query["prefix"][0], "delimiter" in query)
                )

            do_HEAD = do_GET

            def do_PUT(self) -> None:
                if self.headers.get("Expect") == "100-continue":  # the client waits a second for it
                    self.send_response_only(100)
                    self.end_headers()
                data = self.rfile.read(int(self.headers["Content-Length"]))
                bucket, _, key = unquote(urlsplit(self.path).path).strip("/").partition("/")
                if not self._is_refused(bucket):
                    s3.puts.append(key)
                    s3.objects[f"{bucket}/{key}"] = data
                    s3.written[f"{bucket}/{key}"] = datetime.now(UTC)
                    self._send(200, b"", {"ETag": _etag(data)})

            def do_DELETE(self) -> None:
                s3.objects.pop(unquote(urlsplit(self.path).path).strip("/"), None)
                self._send(204, b"", {})

            def _is_refused(self, bucket: str) -> bool:
                signature = self.headers.get("Authorization", "")
                if s3.forbidden or not signature.startswith("AWS4-HMAC-SHA256 Credential=known/"):
                    self._error(403, "AccessDenied")
                elif not any(name.startswith(f"{bucket}/") for name in s3.objects):
                    self._error(404, "NoSuchBucket")
                else:
                    return False
                return True

            def _list(self, bucket: str, prefix: str, is_one_folder: bool) -> None:
                found = [name.partition("/")[2] for name in s3.objects if name.startswith(f"{bucket}/{prefix}")]
                rows = "".join(
                    f"<Contents><Key>{key}</Key><Size>{len(s3.objects[f'{bucket}/{key}'])}</Size>"
                    f"<LastModified>{s3.written.get(f'{bucket}/{key}', _LONG_AGO).isoformat()}</LastModified>"
                    f"<ETag>{_etag(s3.objects[f'{bucket}/{key}'])}</ETag></Contents>"
                    for key in found
                    if not is_one_folder or "/" not in key.removeprefix(prefix)
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
