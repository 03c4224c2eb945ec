"""Fetch and check the libraries that a folder's manifest.json pins: `python -m multiflora_platform.ui.vendoring DIR`.

The manifest names packages of npm with the SHA-256 of their archives and of each file that is kept. What does not match
is refused. With --update, what is fetched becomes what is pinned. Needs npm; serving does not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


class VendoringError(Exception):
    """Something is not what the manifest says."""


def refresh(folder: Path, *, update: bool = False) -> None:
    """Write every file of the manifest anew. Raises VendoringError before a package that differs changes anything."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for package in manifest["packages"]:
        with TemporaryDirectory() as scratch:
            archive = _download(package["name"], package["version"], Path(scratch))
            _pin(package, "sha256", archive.read_bytes(), f"{package['name']}@{package['version']}", update)
            with tarfile.open(archive) as opened:
                found = [(file, _member(opened, file["from"])) for file in package["files"]]
        for file, body in found:
            _pin(file, "sha256", body, file["from"], update)
        for file, body in found:
            (folder / file["to"]).write_bytes(body)
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def check(folder: Path) -> None:
    """Compare what lies in the folder with the manifest. Raises VendoringError."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = [file for package in manifest["packages"] for file in package["files"]]
    for file in files:
        _pin(file, "sha256", (folder / file["to"]).read_bytes(), file["to"], update=False)
    strangers = {path.name for path in folder.iterdir()} - {file["to"] for file in files} - {"manifest.json"}
    if strangers:
        raise VendoringError(f"{min(strangers)} is not in the manifest")


def _download(name: str, version: str, scratch: Path) -> Path:
    command = ["npm", "pack", "--silent", f"{name}@{version}"]
    subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    return next(scratch.glob("*.tgz"))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    opened = archive.extractfile(f"package/{name}")
    assert opened is not None, "the manifest names files, not folders"
    return opened.read()


def _pin(entry: dict[str, Any], field: str, body: bytes, what: str, update: bool) -> None:
    digest = hashlib.sha256(body).hexdigest()
    if update:
        entry[field] = digest
    elif entry.get(field) != digest:
        raise VendoringError(f"{what} has SHA-256 {digest}, the manifest says {entry.get(field)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fetch and check the libraries that FOLDER/manifest.json pins.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--update", action="store_true", help="pin what is fetched")
    arguments = parser.parse_args()
    refresh(arguments.folder, update=arguments.update)
    check(arguments.folder)
