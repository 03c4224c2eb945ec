"""Names of adapters in offline use: by LoRARequest, read again when the folder's files change, and removed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from multiflora import AdapterRejected, LoRARequest
from multiflora.adapters import AdapterNames
from multiflora.opened_model import OpenedModel
from multiflora_adapters.store import ArtifactStore
from multiflora_platform.model_files import ModelFiles

DEMO = Path(__file__).parents[3] / "examples" / "demo"


@pytest.fixture
def names(tmp_path: Path) -> AdapterNames:
    model = OpenedModel.open(ModelFiles(model=DEMO / "base"))
    return AdapterNames(ArtifactStore(tmp_path / "store"), model.config.base_model("base"), 64)


def test_a_request_is_read_once_and_again_when_its_files_change(
    names: AdapterNames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(DEMO / "adapters" / "sql", tmp_path / "adapter")
    request = LoRARequest("mine", 1, str(folder))
    assert names.needs_reading(request)
    first = names.resolve(request)[1]
    assert not names.needs_reading(request)
    with monkeypatch.context() as patch:
        patch.setattr(names, "add", lambda name, path: pytest.fail("read although nothing has changed"))
        assert names.resolve(request)[1] == first
    shutil.copytree(DEMO / "adapters" / "pirate", folder, dirs_exist_ok=True)
    second = names.resolve(request)[1]
    assert second != first
    assert names.digest("mine") == second
    assert names.resolve(LoRARequest("mine", 1, str(DEMO / "adapters" / "sql")))[1] == first
    names.add("mine", folder)
    assert names.resolve(LoRARequest("mine", 1, str(DEMO / "adapters" / "sql")))[1] == first


def test_a_folder_that_is_not_there_is_rejected_by_name(names: AdapterNames, tmp_path: Path) -> None:
    with pytest.raises(AdapterRejected, match="'gone' cannot be served"):
        names.resolve(LoRARequest("gone", 1, str(tmp_path / "gone")))
    assert list(names.names()) == []


def test_a_removed_name_means_nothing(names: AdapterNames) -> None:
    names.add("sql", DEMO / "adapters" / "sql")
    names.remove("sql")
    with pytest.raises(ValueError, match="There is no adapter 'sql'; added are: none"):
        names.digest("sql")
    with pytest.raises(ValueError, match="There is no adapter 'sql'"):
        names.remove("sql")


@pytest.mark.parametrize(("fields", "message"), [(("", 1, "x"), "name"), (("x", 0, "x"), "int_id"), (("x", 1), "path")])
def test_a_request_that_names_no_adapter_is_refused(fields: tuple[str, int, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRARequest(*fields)


def test_a_path_may_stand_under_vllms_older_name() -> None:
    assert LoRARequest("mine", 1, lora_local_path="/a") == LoRARequest("mine", 1, "/a")
    with pytest.raises(TypeError, match="two names of one argument"):
        LoRARequest("mine", 1, "/a", lora_local_path="/b")
