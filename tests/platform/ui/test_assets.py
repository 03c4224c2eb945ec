"""What the UI's files are: pinned, self-contained, small, and served so that browsers keep them."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from multiflora_platform.ui import assets, vendoring
from multiflora_platform.ui.assets import FOLDER, bundle
from multiflora_platform.ui.documentation import documentation
from multiflora_platform.ui.routes import router

ROOT = Path(__file__).parents[3]
LIMIT = 120_000


@pytest.fixture
def http() -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(router)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


@pytest.mark.parametrize("folder", [FOLDER / "vendor", ROOT / "tests/e2e/browser/vendor"], ids=["served", "tests"])
def test_vendored_files_are_those_of_the_manifest(folder: Path) -> None:
    vendoring.check(folder)


def test_a_changed_vendored_file_is_noticed(tmp_path: Path) -> None:
    for path in (FOLDER / "vendor").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "htm.mjs").write_text("alert(1)", encoding="utf-8")
    with pytest.raises(vendoring.VendoringError, match=r"htm\.mjs"):
        vendoring.check(tmp_path)


def test_no_file_of_ours_names_another_host() -> None:
    for path in FOLDER.rglob("*"):
        if path.suffix in assets.MEDIA_TYPES and "vendor" not in path.parts:
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://[a-z]", text), path
            assert "innerHTML" not in text, path


def test_every_import_of_a_module_exists() -> None:
    """A wrong one would show only when its page is opened."""
    mapped = set(assets._IMPORTS)
    for path in (path for path in FOLDER.rglob("*.js") if "vendor" not in path.parts):
        for name in re.findall(r'(?:} from |^import |import\()"([^"]+)"', path.read_text(encoding="utf-8"), re.M):
            assert name in mapped or (path.parent / name).exists(), f"{path.name}: {name}"


async def test_every_page_is_small_when_it_is_the_first(http: httpx.AsyncClient) -> None:
    """The page, what it names, and all that its module imports, the charts' library as well, as they travel; in
    Chinese, too, where a part of a page has its charts only once there is something to draw."""
    async with http:
        page = await http.get("/ui/", headers={"accept-encoding": "gzip"})
        named = set(re.findall(r'(?:href|src)="([^"]+)"', page.text)) - {"/docs", "/ui/session"}
        responses = [await http.get(name, headers={"accept-encoding": "gzip"}) for name in named]
    assert {response.status_code for response in responses} == {200}
    assert len(responses) > 15
    first = {name.removeprefix(bundle().base) for name in named}
    shell = sum(int(response.headers["content-length"]) for response in [page, *responses])
    weights: dict[object, int] = {}
    for name in (name for name in bundle().files if re.fullmatch(r"pages/[\w-]+\.js", name)):
        for part in PARTS.get(name, [name]):
            needed = imported(name) | imported(part)
            weights[part] = shell + sum(map(weight, needed - first))
            charts = {"vendor/uPlot.iife.min.js"} if part != name else set()
            weights[part, "zh"] = shell + sum(map(weight, {*needed, "words/zh.js"} - first - charts))
    assert len(weights) > 20
    assert not {name: size for name, size in weights.items() if size > LIMIT}


# Of pages whose parts come when they are opened.
PARTS = {"pages/adapter.js": [f"pages/adapter/{one}.js" for one in ("versions", "aliases", "evals", "activity", "use")]}


def weight(name: str) -> int:
    asset = bundle().files[name]
    return len(asset.gzipped or asset.body)


def imported(name: str) -> set[str]:
    """The module and all that it imports, at once or later, but for the languages."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name not in found and not name.startswith("words/"):
            found.add(name)
            text = bundle().files[name].body.decode()
            wanted = re.findall(r'^(?:import|export)\b[^;]*?\bfrom "([^"]+)";|\bimport\("([^"]+)"\)', text, re.M)
            waiting += [assets._resolved(name, at_once or later) for at_once, later in wanted]
    return found


def test_comments_stay_at_home() -> None:
    """Of whole lines in our own files; what stands behind code, and in texts, is left."""
    for name, file in bundle().files.items():
        if name.endswith(".js") and not name.startswith("vendor/"):
            assert not re.search(rb"^\s*(/\*|//)", file.body, re.M), name
    assert b"export const t = " in bundle().files["lib/language.js"].body


async def test_files_are_kept_for_ever_and_the_page_is_asked_for(http: httpx.AsyncClient) -> None:
    async with http:
        page = await http.get("/ui/adapters/some.name")
        assert page.headers["cache-control"] == "no-cache"
        assert (await http.get("/ui/", headers={"if-none-match": page.headers["etag"]})).status_code == 304
        file = await http.get(bundle().base + "app.js")
        assert "immutable" in file.headers["cache-control"]
        assert file.headers["content-type"].startswith("text/javascript")
        assert file.headers["x-content-type-options"] == "nosniff"
        old = bundle().base.replace(bundle().base[11:15], "0000")
        assert (await http.get(old + "app.js")).status_code == 404
        assert (await http.get(bundle().base + "../routes.py")).status_code == 404
        assert (await http.get("/ui")).headers["location"] == "/ui/"


async def test_compression_is_for_those_who_take_it(http: httpx.AsyncClient) -> None:
    async with http:
        plain = await http.get(bundle().base + "app.js", headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        packed = bundle().files["app.js"].gzipped
        assert packed is not None
        assert gzip.decompress(packed) == plain.content


async def test_the_policy_lets_nothing_in(http: httpx.AsyncClient) -> None:
    async with http:
        policy = (await http.get("/ui/")).headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy
    assert "*" not in policy
    assert re.fullmatch(r"'self' 'sha256-\S+' 'sha256-\S+'", rules["script-src"])
    assert rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"


def test_what_the_first_page_needs_is_named_in_it() -> None:
    """Directly or not, and nothing that only one page needs."""
    names = set(re.findall(r'modulepreload" href="[^"]*?/assets/\w+/([^"]+)"', bundle().page.body.decode()))
    assert {"app.js", "vendor/preact.mjs", "vendor/signals-core.mjs", "lib/api.js", "components/icon.js"} <= names
    assert not names & {"vendor/uPlot.iife.min.js", "pages/overview.js", "components/virtual-table.js"}
    assert names <= set(bundle().files)


def test_another_file_makes_another_release(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("{base}{import_map}{preloads}", encoding="utf-8")
    (tmp_path / "boot.js").write_text("0", encoding="utf-8")
    (tmp_path / "app.js").write_text("1", encoding="utf-8")
    before = bundle.__wrapped__(tmp_path).base
    (tmp_path / "app.js").write_text("2", encoding="utf-8")
    assert bundle.__wrapped__(tmp_path).base != before


async def test_the_documentation_is_served_as_it_is(http: httpx.AsyncClient) -> None:
    """And its library comes with its pages alone."""
    async with http:
        for path in sorted((ROOT / "docs").rglob("*.md")):
            answer = await http.get(f"{bundle().base}docs/{path.relative_to(ROOT / 'docs').as_posix()}")
            assert answer.content == path.read_bytes()
            assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "marked" not in bundle().page.body.decode().replace(f'"marked": "{bundle().base}vendor/marked.esm.js"', "")


def test_the_index_has_the_headings_that_are_none_of_code_and_their_anchors(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "# The `first`\n\n```sh\n# a comment\n```\n\n## On it, off it\n\n### On it, off it\n"
    )
    (page,) = json.loads(documentation(tmp_path)["docs/index.json"])
    headings = [[2, "On it, off it", "on-it-off-it"], [3, "On it, off it", "on-it-off-it-1"]]
    assert page == {"path": "README.md", "title": "The first", "headings": headings}


def test_what_explains_a_page_is_there() -> None:
    index = {page["path"]: page["headings"] for page in json.loads(documentation()["docs/index.json"])}
    texts = [path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.js") if "vendor" not in path.parts]
    table = (FOLDER / "lib/help.js").read_text(encoding="utf-8")
    wanted = re.findall(r'^  [\w"]+: "([^"]+)",$', table, re.MULTILINE)
    wanted += re.findall(r'<\$\{(?:Card|Help)\}[^>]* (?:help|page)="([^"]+)"', "".join(texts))
    assert len(wanted) > 20
    for page in wanted:
        name, _, anchor = page.partition("#")
        assert not anchor or anchor in [heading[2] for heading in index[f"{name}.md"]], page
        assert f"{name}.md" in index, page
