"""The command line against a running server: what it prints, what it leaves behind, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from multiflora_platform.cli.main import main

DEMO = Path(__file__).parents[2] / "examples" / "demo"
NAMES = [entry["name"] for entry in json.loads((DEMO / "adapters.json").read_text(encoding="utf-8"))]
FIRST, SECOND = (str(DEMO / "adapters" / name) for name in NAMES[:2])


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(demo: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs `multiflora ARGUMENTS` against the demo; no error may be longer than two lines."""
    monkeypatch.setenv("MULTIFLORA_URL", demo.url)
    monkeypatch.setenv("MULTIFLORA_API_KEY", f"{demo.key},a-second-one")

    def run(*arguments: str) -> Done:
        code = main(arguments)
        printed = capsys.readouterr()
        assert len(printed.err.splitlines()) <= 2, printed.err
        return Done(code, printed.out, printed.err)

    return run


@pytest.fixture
def adapter(cli: Callable[..., Done]) -> Iterator[str]:
    """An adapter of one version, gone after the test."""
    assert cli("adapters", "add", "by-hand", FIRST, "--description", "no [/markup]", "--tag", "x").code == 0
    yield "by-hand"
    cli("adapters", "rm", "by-hand")


def test_an_adapter_from_its_first_version_to_its_end(cli: Callable[..., Done], demo: Any, adapter: str) -> None:
    second = cli("adapters", "add", adapter, SECOND, "-o", "json")
    assert (second.code, second.json["version"], second.json["state"]) == (0, 2, "ready")
    shown = cli("adapters", "show", adapter, "-o", "json").json
    assert [version["version"] for version in shown["versions"]] == [2, 1]
    assert shown["aliases"] == {"default": {"version": 1}}
    assert cli("adapters", "add", adapter, SECOND, "--promote", "-o", "json").json["version"] == 2
    assert cli("adapters", "rollback", adapter, "-o", "json").json["version"] == 1
    assert cli("adapters", "alias", adapter, "canary", "1=90,2=10", "-o", "json").json["split"] == {"1": 90, "2": 10}
    assert cli("adapters", "alias", adapter, "canary", "2", "-o", "json").json["version"] == 2
    assert cli("adapters", "validate", adapter).code == 0
    assert cli("adapters", "rm", adapter).code == 0
    with demo.http() as http:
        assert http.get(f"/v1/models/{adapter}").status_code == 404


def test_a_version_from_its_evals_to_its_purge(cli: Callable[..., Done], adapter: str, tmp_path: Path) -> None:
    evals = tmp_path / "evals.json"
    evals.write_text(json.dumps([{"prompt": "Hello", "matches": ["(?s).*"], "max_tokens": 4}]), encoding="utf-8")
    said = ("--about", "more data", "--parent", "1", "--training-run", "run-9", "--dataset", "shop")
    assert cli("adapters", "add", adapter, SECOND, *said, "--evals", str(evals)).code == 0
    (found,) = cli("versions", "ls", "--training-run", "run-9", "-o", "json").json
    assert (found["adapter"], found["version"], found["description"]) == (adapter, 2, "more data")
    assert found["lineage"] == {"parent_version": 1, "training_run": "run-9", "datasets": ["shop"]}
    assert [one["passed"] for one in found["evals"]] == [True]
    changed = cli("versions", "set", adapter, "2", "--tag", "reviewed", "--dataset", "shop-2", "-o", "json").json
    assert changed["tags"] == ["reviewed"]
    assert changed["lineage"] == {"parent_version": 1, "training_run": "run-9", "datasets": ["shop-2"]}
    assert cli("versions", "set", adapter, "2").code == 2
    assert cli("versions", "show", adapter, "2", "-o", "json").json["etag"] == changed["etag"]
    named = cli("versions", "rm", adapter, "1")
    assert (named.code, "default" in named.err) == (1, True)
    assert cli("versions", "rm", adapter, "2").code == 0
    assert [one["version"] for one in cli("versions", "ls", adapter, "-o", "json").json] == [1]
    assert cli("versions", "restore", adapter, "2", "-o", "json").json["state"] == "ready"
    assert cli("versions", "rm", adapter, "2").code == 0
    assert cli("versions", "purge", adapter, "2").out == f"purged {adapter}@2\n"
    assert cli("versions", "show", adapter, "2").code == 1


def test_jobs_are_listed_waited_for_and_cancelled_once(cli: Callable[..., Done], demo: Any, adapter: str) -> None:
    with demo.http() as http:
        parts = [("files", (path.name, path.read_bytes())) for path in Path(SECOND).glob("adapter_*")]
        answer = http.post(f"/api/v1/adapters/{adapter}/versions", files=parts, headers={"Prefer": "respond-async"})
    job = answer.json()["job"]["id"]
    waited = cli("jobs", "wait", job, "-o", "json")
    assert (waited.code, waited.json["state"], waited.json["version_state"]) == (0, "succeeded", "ready")
    listed = cli("jobs", "ls", "--adapter", adapter, "--state", "succeeded", "-o", "json").json
    assert job in [one["id"] for one in listed]
    assert cli("jobs", "show", job, "-o", "json").json["version"] == 2
    assert cli("jobs", "cancel", job).code == 1
    assert cli("jobs", "wait", "nobody").code == 1


def test_evals_that_cannot_be_read_are_named(cli: Callable[..., Done], adapter: str, tmp_path: Path) -> None:
    bad = tmp_path / "evals.json"
    for content in ("{", "{}"):
        bad.write_text(content, encoding="utf-8")
        done = cli("adapters", "add", adapter, SECOND, "--evals", str(bad))
        assert (done.code, "--evals" in done.err) == (2, True)
    assert cli("adapters", "add", adapter, SECOND, "--evals", str(tmp_path / "none.json")).code == 1
    assert cli("adapters", "add", "never-judged", SECOND, "--evals", str(bad)).code == 2
    assert cli("adapters", "show", "never-judged").code == 1


def test_a_list_in_a_pipe_has_a_line_for_each_adapter(cli: Callable[..., Done], adapter: str) -> None:
    lines = cli("adapters", "ls", "--tag", "x").out.splitlines()
    assert len(lines) == 2
    assert adapter in lines[1]
    assert "no [/markup]" in lines[1]
    versions = cli("adapters", "show", adapter).out
    digest = cli("adapters", "show", adapter, "--json").json["versions"][0]["digest"]
    assert digest[:12] in versions
    assert digest not in versions


def test_a_rejected_adapter_is_exit_code_5(cli: Callable[..., Done], tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((Path(FIRST) / name).read_bytes()[:500])
    done = cli("adapters", "add", "broken", str(tmp_path), "-o", "json")
    assert (done.code, done.out) == (5, "")
    assert "rejected" in done.err
    assert cli("adapters", "validate", "broken").code == 5
    assert cli("adapters", "rm", "broken").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("adapters", "show", "nobody"), 1, "nobody"),
        (("adapters", "rm", "nobody"), 1, "nobody"),
        (("adapters", "add", "a/b", FIRST), 1, "not a valid name"),
        (("adapters", "add", "multiflora-demo", FIRST), 1, "base model"),
        (("adapters", "add", "never-made", "no-such-folder"), 1, "no-such-folder"),
        (("adapters", "add", NAMES[0], "file:///etc"), 1, "--allow-source-root"),
        (("adapters", "alias", NAMES[0], "default", "1=50,x=50"), 2, "3=90,4=10"),
        (("adapters", "alias", NAMES[0], "canary", "99"), 1, "no version 99"),
        (("keys", "revoke", "key_none"), 1, "key_none"),
        (("adapters", "ls", "--api-key", "wrong"), 1, "--api-key"),
    ],
)
def test_refusals_name_their_cause(cli: Callable[..., Done], arguments: tuple[str, ...], code: int, words: str) -> None:
    done = cli(*arguments)
    assert done.code == code
    assert words in done.err


def test_a_failed_add_leaves_no_adapter_behind(cli: Callable[..., Done], demo: Any) -> None:
    assert cli("adapters", "add", "never-made", "no-such-folder").code == 1
    with demo.http() as http:
        assert http.get("/api/v1/adapters/never-made").status_code == 404


def test_a_key_from_its_making_to_its_end(cli: Callable[..., Done], demo: Any) -> None:
    made = cli("keys", "create", "command-line", "-o", "json").json
    with httpx.Client(base_url=demo.url, headers={"Authorization": f"Bearer {made['key']}"}) as http:
        assert http.get("/v1/models").status_code == 200
        assert http.get("/api/v1/keys").status_code == 403
        listed = cli("keys", "ls").out
        assert made["id"] in listed
        assert made["key"] not in listed
        assert cli("keys", "revoke", made["id"]).code == 0
        assert http.get("/v1/models").status_code == 401


def test_a_rollout_from_its_first_share_to_everybody(cli: Callable[..., Done], adapter: str) -> None:
    assert cli("adapters", "set", adapter, "--warmup-prompt", "Hello", "-o", "json").json["warmup_prompts"] == ["Hello"]
    assert cli("adapters", "add", adapter, SECOND).code == 0
    begun = cli("adapters", "rollout", "start", adapter, "default", "2", "--percent", "10", "-o", "json")
    assert (begun.code, begun.json["state"]) == (0, "running")
    assert cli("adapters", "rollout", "set", adapter, "default", "--percent", "50", "-o", "json").json["percent"] == 50
    assert cli("adapters", "rollout", "set", adapter, "default").code == 2
    assert cli("adapters", "rollout", "promote", adapter, "default", "-o", "json").json["state"] == "promoted"
    assert "promoted" in cli("adapters", "rollout", "ls", adapter, "default").out
    assert cli("adapters", "rollout", "show", adapter, "default").code == 0
    assert cli("adapters", "rollout", "abort", adapter, "default").code == 1
    history = cli("adapters", "history", adapter, "default", "-o", "json").json
    assert history[0]["target"] == {"version": 2}
    assert cli("adapters", "protect", adapter, "default", "-o", "json").json["protected"] is True
    assert cli("adapters", "unprotect", adapter, "default", "-o", "json").json["protected"] is False
    assert cli("adapters", "pin", adapter, "-o", "json").json["action"] == "pin"
    assert cli("adapters", "unpin", adapter).code == 0
    assert cli("adapters", "load", adapter, "1", "-o", "json").json["version"] == 1
    assert "pid" in cli("replicas", "-o", "json").json[0]


def test_a_tenant_its_key_and_its_usage(cli: Callable[..., Done], demo: Any) -> None:
    limits = ("--allow", NAMES[0], "--rpm", "2", "--kv-share", "0.5", "--priority", "low")
    assert cli("tenants", "create", "cli-tenant", *limits, "-o", "json").json["requests_per_minute"] == 2
    scopes = ("--scope", "inference", "--scope", "usage:read", "--expires-in", "1d")
    key = cli("keys", "create", "k", "--tenant", "cli-tenant", *scopes, "-o", "json").json
    with httpx.Client(base_url=demo.url, headers={"Authorization": f"Bearer {key['key']}"}) as http:
        assert [card["id"] for card in http.get("/v1/models").json()["data"]] == [NAMES[0]]
        body = {"model": NAMES[0], "prompt": "Hello", "max_tokens": 4, "ignore_eos": True}
        answers = [http.post("/v1/completions", json=body) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"
        assert http.post("/v1/completions", json={**body, "model": NAMES[1]}).status_code == 404
    (row,) = cli("usage", "--tenant", "cli-tenant", "-o", "json").json
    assert (row["adapter"], row["requests"], row["completion_tokens"]) == (NAMES[0], 2, 8)
    assert row["device_ms"] > 0
    assert cli("usage", "--by", "tenant").code == 0
    changed = cli("tenants", "set", "cli-tenant", "--rpm", "none", "--disable", "-o", "json").json
    assert (changed["requests_per_minute"], changed["disabled"]) == (None, True)
    assert "cli-tenant" in cli("tenants", "ls").out
    changed = cli("tenants", "set", "cli-tenant", "--budget-tokens-per-month", "5000", "-o", "json").json
    assert (changed["budget_tokens_per_month"], changed["budget_tokens_per_day"]) == (5000, None)
    (budget,) = cli("tenants", "budgets", "cli-tenant", "-o", "json").json
    assert (budget["unit"], budget["amount"], budget["used"]) == ("tokens", 5000, row["prompt_tokens"] + 8)
    assert "cli-tenant" in cli("tenants", "budgets").out
    refused = cli("tenants", "set", "cli-tenant", "--budget-money-per-day", "5")
    assert (refused.code, "needs prices" in refused.err) == (1, True)
    rotated = cli("keys", "rotate", key["id"], "--overlap", "0s", "-o", "json").json
    assert rotated["rotated_from"] == key["id"]
    assert cli("keys", "show", rotated["id"], "-o", "json").json["scopes"] == ["inference", "usage:read"]
    assert len(cli("keys", "ls", "--tenant", "cli-tenant", "-o", "json").json) == 2


def test_a_webhook_is_refused_where_it_may_not_go(cli: Callable[..., Done]) -> None:
    refused = cli("webhooks", "create", "http://127.0.0.1:9/")
    assert refused.code == 1
    assert "--allow-webhook-target" in refused.err
    made = cli("webhooks", "create", "http://8.8.8.8/", "--event", "nothing.*", "-o", "json").json
    assert made["secret"].startswith("whsec_")
    assert cli("webhooks", "set", made["id"], "--disable", "-o", "json").json["disabled"] is True
    assert cli("webhooks", "show", made["id"], "-o", "json").json["events"] == ["nothing.*"]
    assert cli("webhooks", "rotate", made["id"], "-o", "json").json["secret"] != made["secret"]
    assert made["id"] in cli("webhooks", "ls").out
    assert cli("webhooks", "deliveries", made["id"], "-o", "json").json == []
    assert cli("webhooks", "redeliver", made["id"], "1").code == 1
    assert cli("webhooks", "rm", made["id"], "-o", "json").json == {"deleted": made["id"]}


def test_events_and_audit(cli: Callable[..., Done], adapter: str) -> None:
    events = cli("events", "--limit", "1000", "-o", "json").json
    assert adapter in [event["adapter"] for event in events]
    after = cli("events", "--after", str(events[-2]["id"]), "-o", "json").json
    assert [event["id"] for event in after] == [events[-1]["id"]]
    assert cli("audit", "--limit", "1", "-o", "json").json[0]["action"] == events[-1]["type"]


def test_bench_serve_counts_every_token(cli: Callable[..., Done]) -> None:
    shape = ("--requests", "4", "--prompt-tokens", "16", "--output-tokens", "3")
    (row,) = cli("bench", "serve", *shape, "-o", "json").json
    assert row["requests"] == 4
    assert row["tokens_per_second"] == pytest.approx(12 / row["wall"], rel=0.1)
