"""What the page of registering says of files before they are uploaded."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.e2e.browser.window import Window

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def packed(folder: Path, kind: str) -> Path:
    """An archive of the folder, the weights first."""
    files = sorted(folder.iterdir(), key=lambda file: file.suffix != ".safetensors")
    path = folder.parent / f"support de.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, f"made/{file.name}")
        return path
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
        for file in files:
            archive.add(file, f"made/{file.name}")
    return path


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar"])
def test_the_configuration_in_an_archive_is_read_before_the_upload(
    window: Window, adapter_folder: Path, kind: str
) -> None:
    config = json.loads((adapter_folder / "adapter_config.json").read_text())
    page = window.open("/register")
    page.get_by_label("Adapter files").set_input_files(packed(adapter_folder, kind))
    facts = page.get_by_role("region", name="What its configuration says")
    facts.get_by_text(f"{config['r']}, alpha {config['lora_alpha']}").wait_for()
    facts.get_by_text(", ".join(config["target_modules"])).wait_for()
    facts.get_by_text("served here").wait_for()
    assert page.get_by_label("Adapter", exact=True).input_value() == "support-de"


def test_what_would_be_rejected_is_said_before_the_upload(window: Window, adapter_folder: Path) -> None:
    path = adapter_folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"base_model_name_or_path": "acme/Other-7B", "rank_pattern": {"q_proj": 999}}))
    folder = shutil.copytree(adapter_folder, adapter_folder.parent / "billing" / "checkpoint-500")
    page = window.open("/register")
    page.get_by_label("Adapter", exact=True).fill("mine")
    page.get_by_label("Adapter folder").set_input_files(folder)
    facts = page.get_by_role("region", name="What its configuration says")
    facts.get_by_text("Rank 999 is more than this server's limit of 64.").wait_for()
    facts.get_by_text("It was trained on acme/Other-7B; this server runs multiflora-demo.").wait_for()
    assert page.get_by_label("Adapter", exact=True).input_value() == "mine", "what was typed stays"
    path.write_text("{")
    page.get_by_label("Adapter files").set_input_files(list(adapter_folder.iterdir()))
    page.get_by_text("adapter_config.json cannot be read").wait_for()


NAMES = """async (folders) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { suggestedName } = await import(base + "lib/adapter-config.js");
    return folders.map(suggestedName);
}"""


def test_a_name_is_suggested_by_the_folder(window: Window) -> None:
    folders = [["billing", "checkpoint-500"], ["runs", "Kunden Süd (v2)"], ["adapter"], ["_x" * 60], []]
    names = ["billing", "Kunden-S-d-v2", "", ("x" + "_x" * 60)[:64], ""]
    assert window.open("/settings").evaluate(NAMES, folders) == names
