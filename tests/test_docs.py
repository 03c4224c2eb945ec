"""What the documents name exists: files, links, modules, classes, functions, `make` targets; the house is as drawn."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from tests.test_imports import FLOORS, SOURCES, modules

from multiflora_engine.models.families.catalogue import FAMILIES

ROOT = Path(__file__).parent.parent
_PLACES = ("docs/**/*.md", "*.md", "benchmarks/README.md", "examples/demo/README.md")
PAGES = [page for place in _PLACES for page in sorted(ROOT.glob(place))]
ABOUT_CODE = [page for page in PAGES if page.parent.name in ("developing", "decisions") or page.stem == "architecture"]
FILE = re.compile(r"(?<![\w/.:-])((?:[\w-]+/)*[\w-]+\.(?:py|cpp|sh|md|js))(?![\w/])")
MODULE = re.compile(r"\bmultiflora(?:_kernels|_adapters|_engine|_platform)?(?:\.\w+)+")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
CODE = re.compile(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`")
NOT_OURS = {"llama.cpp", "_kernel", "banned_token_ids"}
"""Another project; how names end; the example of a recipe."""
HOUSE = re.compile(r"^ {6}(\d+) {1,2}(\w+)(/|\.py) +\S.*$", re.MULTILINE)


@cache
def files() -> frozenset[str]:
    """Every file of the repository with every shorter form of its path: a/b/c.py, b/c.py, c.py."""
    known = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [path.split("/") for path in known.stdout.splitlines() if (ROOT / path).exists()]
    return frozenset("/".join(parts[i:]) for parts in paths for i in range(len(parts)))


@cache
def words() -> frozenset[str]:
    """Every name in the project's code."""
    places = ("kernels/**/*.cpp", "migrations/**/*.py", "benchmarks/**/*.py", "tests/**/*.py")
    sources = [*modules().values(), *(path for place in places for path in ROOT.glob(place))]
    texts = (path.read_text(encoding="utf-8") for path in sources if path != Path(__file__))
    return frozenset(word for text in texts for word in re.findall(r"\w+", text))


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    missing = set(FILE.findall(page.read_text(encoding="utf-8"))) - files() - NOT_OURS
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in _anchors(target), f"{path}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    for dotted in MODULE.findall(page.read_text(encoding="utf-8")):
        module, rest = dotted, ""
        while module and module not in modules():
            module, _, last = module.rpartition(".")
            rest = rest or last
        assert module, dotted
        assert not rest or re.search(rf"\b{rest}\b", modules()[module].read_text(encoding="utf-8")), dotted


@pytest.mark.parametrize("page", ABOUT_CODE, ids=name)
def test_every_name_in_a_page_about_the_code_is_one(page: Path) -> None:
    """Of classes, functions and constants: what has a capital, an underscore or a dot."""
    names = {found for found in CODE.findall(page.read_text(encoding="utf-8")) if re.search(r"[A-Z_.]", found)}
    parts = {part for found in names - files() for part in found.split(".") if part}
    assert not sorted(parts - words() - NOT_OURS)


def test_a_name_that_is_nowhere_is_found() -> None:
    assert CODE.findall("`NoSuchThing` and `no_such.thing(x)`") == ["NoSuchThing", "no_such.thing"]
    assert not {"NoSuchThing", "no_such"} & words()
    assert FILE.findall("see `a/b_c.py`, https://x.org/y.js and d.md.") == ["a/b_c.py", "d.md"]


def test_the_house_is_drawn_as_it_stands() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package, floors in FLOORS.items():
        drawn = re.search(rf"^    \w+/{package.replace('.', '/')}/.*\n((?: {{6}}.*\n)+)", page, re.MULTILINE)
        assert drawn, package
        rows = HOUSE.findall(drawn[1])
        assert {room: int(floor) for floor, room, _ in rows} == floors
        assert [int(floor) for floor, _, _ in rows] == sorted(floors.values(), reverse=True)
        folder = next(ROOT / source / package.replace(".", "/") for source in SOURCES if _holds(source, package))
        assert all((folder / f"{room}{kind}").exists() for _, room, kind in rows)


def _holds(source: str, package: str) -> bool:
    return (ROOT / source / package.replace(".", "/")).is_dir()


@pytest.mark.parametrize("folder", ["docs", "docs/developing", "docs/decisions"])
def test_every_page_is_in_its_index(folder: str) -> None:
    index = ROOT / folder / "README.md"
    linked = {(index.parent / path).resolve() for path, _ in LINK.findall(index.read_text(encoding="utf-8")) if path}
    assert {page for page in index.parent.glob("*.md") if page != index} <= linked


def test_decisions_are_numbered_and_have_their_three_parts() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(page.name[:4])}. ")
        assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequences"))


def test_make_help_has_every_target_and_pages_name_only_those() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    printed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    explained = set(re.findall(r"^make ([\w-]+) {2,}\S", printed, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony
    assert explained == set(phony[1].split())
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named <= explained


def test_the_page_of_models_names_every_architecture_that_is_served() -> None:
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    named = {word for word in re.findall(r"\w+", page) if word.endswith(("ForCausalLM", "LMHeadModel"))}
    named |= {word for word in re.findall(r"ChatGLM\w+", page) if word.endswith(("Model", "Generation"))}
    assert named == {family.name for family in FAMILIES}
