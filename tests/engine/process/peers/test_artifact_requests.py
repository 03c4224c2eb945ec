"""Which gateway is asked for a missing artifact, and what becomes of those that lack it, leave, or send another."""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.platform.registry.house import adapter_files, write_folder

from multiflora_adapters.report import AdapterError
from multiflora_adapters.storage.host_cache import IsUsed
from multiflora_adapters.store import ArtifactStore
from multiflora_engine.process.peers.artifact_requests import ArtifactRequests
from multiflora_engine.process.socket import EngineSocket, Peer
from multiflora_engine.protocol.messages import ArtifactPart, ArtifactWanted
from multiflora_engine.residency.missing_artifacts import MissingArtifacts

STARTER, ONE, TWO = (Peer(cast(Any, None), name, name == b"starter") for name in (b"starter", b"one", b"two"))
Answers = Callable[[Peer, ArtifactWanted], ArtifactPart | None]


class Gateways:
    """The socket to them, on which each answers as `answers` says."""

    def __init__(self, answers: Answers) -> None:
        self.peers = [STARTER, ONE, TWO]
        self.asked: list[tuple[Peer, ArtifactWanted]] = []
        self.sent: deque[tuple[Peer, ArtifactPart]] = deque()
        self._answers = answers

    def send(self, peer: Peer, wanted: ArtifactWanted) -> None:
        self.asked.append((peer, wanted))
        answer = self._answers(peer, wanted)
        if answer is None:
            self.peers.remove(peer)
        else:
            self.sent.append((peer, answer))


def fetched(
    answers: Answers,
    digest: str,
    store: ArtifactStore,
    patience: float = 30.0,
    is_used: IsUsed = lambda digest: False,
) -> Gateways:
    """What the reader's thread does, with the step loop's turns beside it. Raises what it raises."""
    missing, gateways = MissingArtifacts(store, patience), Gateways(answers)
    missing.can_ask, missing.is_used = True, is_used
    requests = ArtifactRequests(missing, cast(EngineSocket, gateways))
    raised: list[BaseException] = []

    def read() -> None:
        try:
            missing.bring(digest)
        except BaseException as error:
            raised.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    while reader.is_alive():
        requests.advance()
        while gateways.sent:
            requests.take(*gateways.sent.popleft())
        reader.join(0.001)
    if raised:
        raise raised[0]
    return gateways


@pytest.fixture
def stores(tmp_path: Path) -> tuple[ArtifactStore, str, ArtifactStore]:
    """A gateway's with one artifact, its digest, and the engine's, which is empty."""
    full, folder = ArtifactStore(tmp_path / "gateway"), tmp_path / "adapter"
    folder.mkdir()
    for name, content in adapter_files(rank=4).items():
        (folder / name).write_bytes(content)
    return full, full.add(folder).digest, ArtifactStore(tmp_path / "engine")


def of(store: ArtifactStore, wanted: ArtifactWanted, most: int = 100) -> ArtifactPart:
    content = (store.path(wanted.digest) / wanted.name).read_bytes()
    return ArtifactPart(wanted, content[wanted.offset : wanted.offset + most], len(content))


def test_it_comes_in_parts_from_the_first_gateway_that_has_it(stores: tuple[ArtifactStore, str, ArtifactStore]) -> None:
    full, digest, empty = stores

    def answers(peer: Peer, wanted: ArtifactWanted) -> ArtifactPart:
        return ArtifactPart(wanted, is_missing=True) if peer is ONE else of(full, wanted)

    gateways = fetched(answers, digest, empty)
    assert empty.verify(digest)
    assert [peer for peer, _ in gateways.asked].count(ONE) == 1, "then it is asked of the one that has it"
    assert STARTER not in {peer for peer, _ in gateways.asked}
    assert len(gateways.asked) > 3


def test_a_server_brings_what_its_own_engine_lacks(stores: tuple[ArtifactStore, str, ArtifactStore]) -> None:
    full, digest, empty = stores

    def answers(peer: Peer, wanted: ArtifactWanted) -> ArtifactPart:
        return of(full, wanted) if peer is STARTER else ArtifactPart(wanted, is_missing=True)

    gateways = fetched(answers, digest, empty)
    assert empty.verify(digest)
    assert [peer for peer, _ in gateways.asked[:3]] == [ONE, TWO, STARTER], "which is none where engines run alone"


def test_one_that_leaves_meanwhile_is_followed_by_the_next(stores: tuple[ArtifactStore, str, ArtifactStore]) -> None:
    full, digest, empty = stores
    fetched(lambda peer, wanted: None if peer is ONE and wanted.offset else of(full, wanted), digest, empty)
    assert empty.verify(digest)


def test_where_no_gateway_has_it_the_error_names_it_and_what_to_do(
    stores: tuple[ArtifactStore, str, ArtifactStore],
) -> None:
    _, digest, empty = stores
    with pytest.raises(AdapterError, match=rf"{digest}\. No gateway .*upload the version again"):
        fetched(lambda _, wanted: ArtifactPart(wanted, is_missing=True), digest, empty)
    with pytest.raises(AdapterError, match="do not answer"):
        fetched(lambda _, wanted: ArtifactPart(ArtifactWanted("other", "", 0)), digest, empty, patience=0.05)


def test_what_is_not_what_its_digest_says_is_not_kept(stores: tuple[ArtifactStore, str, ArtifactStore]) -> None:
    full, digest, empty = stores

    def changed(_: Peer, wanted: ArtifactWanted) -> ArtifactPart:
        part = of(full, wanted, most=1 << 20)
        return ArtifactPart(wanted, part.data.replace(b'"r": 4', b'"r": 5'), part.size)

    with pytest.raises(AdapterError, match="other files"):
        fetched(changed, digest, empty)
    assert empty.digests() == []
    assert not list(empty.path(digest).parent.iterdir()), "nothing is left behind"


def test_an_engine_of_one_server_asks_no_one(stores: tuple[ArtifactStore, str, ArtifactStore]) -> None:
    missing = MissingArtifacts(stores[2])
    missing.bring(stores[1])
    assert missing.take_wanted() is None


def test_what_a_gateway_could_not_bring_is_told(stores: tuple[ArtifactStore, str, ArtifactStore]) -> None:
    _, digest, empty = stores

    def answers(peer: Peer, wanted: ArtifactWanted) -> ArtifactPart:
        problem = "A gateway could not bring it: No space left on device." if peer is ONE else ""
        return ArtifactPart(wanted, is_missing=True, problem=problem)

    with pytest.raises(AdapterError, match="could not bring it: No space left on device"):
        fetched(answers, digest, empty)


def test_a_full_disk_of_the_engine_is_told(
    stores: tuple[ArtifactStore, str, ArtifactStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    full, digest, empty = stores

    def refuse(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(empty, "add", refuse)
    with pytest.raises(AdapterError, match=rf"{digest} could not be fetched: the disk .*--artifact-cache-bytes"):
        fetched(lambda _, wanted: of(full, wanted), digest, empty)


def test_room_is_made_before_the_first_part_but_not_of_what_is_used(
    stores: tuple[ArtifactStore, str, ArtifactStore], tmp_path: Path
) -> None:
    full, digest, _ = stores
    others = [full.add(write_folder(tmp_path / f"other-{seed}", adapter_files(seed, rank=4))).digest for seed in (1, 2)]
    size = sum(file.stat().st_size for file in full.path(digest).iterdir())
    cache = ArtifactStore(tmp_path / "cache", cache_bytes=2 * size + 200)
    for other in others:
        fetched(lambda _, wanted: of(full, wanted), other, cache)
        cache.cache.touch(other)
    seen: list[list[str]] = []

    def answers(peer: Peer, wanted: ArtifactWanted) -> ArtifactPart:
        seen.append(cache.digests())
        return of(full, wanted)

    fetched(answers, digest, cache, is_used=lambda one: one == others[0])
    assert seen[-1] == [others[0]]
    assert set(cache.digests()) == {others[0], digest}
    assert (cache.cache.fetches, cache.cache.evictions) == (3, 1)
