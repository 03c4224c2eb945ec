"""The secret file: private, made once, complete or not there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from multiflora_platform.auth.secret import Secret


def test_it_is_made_once_and_only_the_owner_reads_it(tmp_path):
    data = tmp_path / "data"
    first = Secret.load(data)
    assert Secret.load(data).derive("p", "v") == first.derive("p", "v")
    assert (data / "secret").stat().st_mode & 0o777 == 0o600
    assert data.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in data.iterdir()] == ["secret"]


def test_parallel_starts_agree(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        derived = list(pool.map(lambda _: Secret.load(tmp_path / "data").derive("p", "v"), range(16)))
    assert len(set(derived)) == 1


def test_purposes_do_not_mix(tmp_path):
    secret = Secret.load(tmp_path)
    assert (
        len({secret.derive("a", "b"), secret.derive("b", "a"), secret.derive("a", "c"), secret.derive("ab", "")}) == 4
    )
