"""The secret file: private, made once, complete or not there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from multiflora_platform.auth.secret import Secret
from multiflora_platform.settings import ConfigurationError


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


def test_hosts_that_share_a_secret_file_have_one_secret_and_no_folder_changes_its_own(tmp_path):
    shared = tmp_path / "shared"
    shared.write_text("5e" * 32 + "\n")
    for host in ("a", "b"):
        Secret.adopt(shared, tmp_path / host)
        Secret.adopt(shared, tmp_path / host)
    assert len({Secret.load(tmp_path / host).derive("p", "v") for host in ("a", "b")}) == 1
    assert (tmp_path / "a" / "secret").stat().st_mode & 0o777 == 0o600
    own = Secret.load(tmp_path / "own").derive("p", "v")
    with pytest.raises(ConfigurationError, match="is not the secret in"):
        Secret.adopt(shared, tmp_path / "own")
    assert Secret.load(tmp_path / "own").derive("p", "v") == own
    for wrong in ("5e" * 31, "not hexadecimal"):
        shared.write_text(wrong)
        with pytest.raises(ConfigurationError, match="openssl rand -hex 32"):
            Secret.adopt(shared, tmp_path / "c")
