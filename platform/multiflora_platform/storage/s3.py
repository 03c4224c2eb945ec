"""A client of S3, and what its errors mean. Needs the extra `s3`.

Credentials, region and endpoint are the machine's own (AWS_… in the environment, profiles, instance roles).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REFUSED = ("401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
_MISSING = ("404", "NoSuchKey", "NoSuchBucket")
Kind = Literal["no credentials", "refused", "missing", "unreachable"]


class S3Error(Exception):
    """kind: what is to be done about it. The message is S3's, or the client's."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def is_installed() -> bool:
    return importlib.util.find_spec("boto3") is not None


def is_bucket(name: str) -> bool:
    """Of 3 to 63 lower-case letters, digits, dots and dashes."""
    return _BUCKET.fullmatch(name) is not None


def connect(endpoint: str | None = None) -> Any:
    """endpoint: None is AWS, or what AWS_ENDPOINT_URL_S3 names. May be used by several threads."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=10,
        read_timeout=30,
        retries={"max_attempts": 2},
        # Servers that only speak like S3 know no other checksums than those that they are asked for.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)


@contextmanager
def explained() -> Iterator[None]:
    """Raises S3Error for what boto3 and the network raise."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        raise S3Error("no credentials", str(error)) from error
    except (BotoCoreError, Boto3Error, ClientError, OSError) as error:
        # boto3 wraps what S3 says to an upload.
        told = error.__context__ if isinstance(error, Boto3Error) else error
        code = str(told.response.get("Error", {}).get("Code", "")) if isinstance(told, ClientError) else ""
        if code in _MISSING:
            raise S3Error("missing", code) from error
        if code in _REFUSED:
            raise S3Error("refused", code) from error
        raise S3Error("unreachable", str(error)) from error
