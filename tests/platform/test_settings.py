"""Settings: a documentation page that names every one, and secrets that are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from multiflora_platform.settings import ENV_PREFIX, Settings, flag, shown

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    description = Settings.model_fields[name].description
    assert f"| `{flag(name)}` | `{ENV_PREFIX}{name.upper()}` |" in page
    assert description is not None
    assert f"| {description} |" in page


def test_the_shortest_lookup_is_no_longer_than_the_longest() -> None:
    with pytest.raises(ValueError, match=r"prompt_lookup_min \(5\) is above prompt_lookup_max \(4\); give both"):
        Settings(prompt_lookup_min=5)


def test_no_secret_is_shown() -> None:
    url = "postgresql://me:p@ss:word@host:5432/db"
    assert shown("database_url", url) == "postgresql://me:***@host:5432/db"
    assert shown("database_url", "sqlite+aiosqlite:////var/a@b.db") == "sqlite+aiosqlite:////var/a@b.db"
    assert "hush" not in shown("api_key", ("hush",))
    assert "hush" not in shown("hf_token", "hush")


@pytest.mark.parametrize("field", ["kv_cache_memory", "seed", "max_num_seqs", "max_loras", "kv_offload_disk_bytes"])
def test_numbers_that_no_engine_could_be_told_are_refused(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Settings.model_validate({field: 2**63})
