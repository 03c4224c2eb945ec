"""Each engine has a GPU of its own, or is told what it may take of one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from multiflora_platform.fleet import places
from multiflora_platform.fleet.places import places_of


@pytest.fixture(autouse=True)
def _two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(places, "gpus", lambda: [SimpleNamespace(index=0), SimpleNamespace(index=1)])


def names(*arguments: object) -> list[str | None]:
    return [place.get("CUDA_VISIBLE_DEVICES") for place in places_of(*arguments)]  # type: ignore[arg-type]


def test_each_engine_has_a_gpu_of_its_own() -> None:
    assert names(2, "auto", None) == ["0", "1"]
    assert names(1, "auto", None) == [None], "one engine finds its GPU itself"
    assert names(2, "cpu", None) == [None, None]


def test_the_environment_says_which_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    assert names(2, "cuda", None) == ["3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert names(2, "auto", None) == [None, None]


def test_each_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(1, "auto", None, 2) == [None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7,8")
    assert names(2, "auto", None, 2) == ["3,5", "7,8"]
    with pytest.raises(ValueError, match="there are 4 GPUs for 2 engines of 3 ranks"):
        places_of(2, "auto", 1 << 30, 3)


def test_engines_share_a_gpu_only_where_it_is_said_what_each_may_take() -> None:
    with pytest.raises(ValueError, match="there are 2 GPUs for 3 engines"):
        places_of(3, "auto", None)
    assert names(3, "auto", 1 << 30) == ["0", "1", "0"]
