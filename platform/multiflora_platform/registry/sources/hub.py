"""hf://organisation/repository@revision: pinned to the commit that the revision means, then fetched from there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from multiflora_adapters.manifest import ARTIFACT_FILES, CARD_NAME
from multiflora_platform.registry.errors import SourceNotFound, SourceRefused, SourceUnreachable
from multiflora_platform.registry.sources.remote import Pinned
from multiflora_platform.web.problems import InvalidRequest

_ADDRESS = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_SECONDS = 30.0


@dataclass(frozen=True)
class HubSource:
    """endpoint: None is the hub that HF_ENDPOINT names; its token is the machine's own (HF_TOKEN)."""

    repo: str
    revision: str | None
    endpoint: str | None = None

    @classmethod
    def parse(cls, address: str, endpoint: str | None) -> HubSource:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise InvalidRequest("A hub source reads hf://organisation/repository@revision.", pointer="/source")
        try:
            validate_repo_id(match["repo"])
        except HFValidationError as error:
            raise InvalidRequest(f"hf://{address} names no repository: {error}", pointer="/source") from None
        return cls(match["repo"], match["revision"], endpoint)

    def pin(self) -> Pinned:
        from huggingface_hub import HfApi

        with self._explained():
            info = HfApi(endpoint=self.endpoint).model_info(
                self.repo, revision=self.revision, files_metadata=True, timeout=_SECONDS
            )
        if info.sha is None:
            raise SourceUnreachable(f"The hub names no commit for {self}.")
        known = (*ARTIFACT_FILES, CARD_NAME)
        files = {file.rfilename: file.size or 0 for file in info.siblings or () if file.rfilename in known}
        return Pinned(f"hf://{self.repo}@{info.sha}", files)

    def read(self, pinned: Pinned, path: str, offset: int) -> Iterator[bytes]:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        commit = pinned.source.rpartition("@")[2]
        url = hf_hub_url(self.repo, path, revision=commit, endpoint=self.endpoint)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={offset}-"}
        with (
            self._explained(),
            get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=_SECONDS) as response,
        ):
            hf_raise_for_status(response)
            skip = offset if response.status_code == 200 else 0  # a server that does not know ranges
            for piece in response.iter_bytes():
                if skip < len(piece):
                    yield piece[skip:]
                skip = max(0, skip - len(piece))

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            RemoteEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            yield
        except GatedRepoError as error:
            raise SourceRefused(f"{self} is gated; accept its terms and set HF_TOKEN for this server.") from error
        except (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError) as error:
            raise SourceNotFound(f"{self} does not exist, or this server's HF_TOKEN may not see it.") from error
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise SourceUnreachable(f"{self} could not be fetched: {_first_line(error)}") from error
        except Exception as error:
            # The hub's client does not wrap what its transport raises, and has changed its transport before.
            if not type(error).__module__.startswith(("httpx", "httpcore")):
                raise
            raise SourceUnreachable(f"{self} could not be fetched: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0][:300]
