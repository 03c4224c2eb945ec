"""A version's way on a real server: evals answered by the engine, jobs, the end of a version, a backup under way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

DEMO = Path(__file__).parents[2] / "examples" / "demo"
PROMPT = "Show the name and price of all products with a price above 40, highest price first."
FILES = ("adapter_config.json", "adapter_model.safetensors")


def upload(http: Any, name: str, adapter: str, metadata: dict[str, Any], **headers: str) -> Any:
    folder = DEMO / "adapters" / adapter
    parts = [("files", (file, (folder / file).read_bytes())) for file in FILES]
    data = {"metadata": json.dumps(metadata)}
    return http.post(f"/api/v1/adapters/{name}/versions", files=parts, data=data, headers=headers)


def test_a_version_answers_its_evals_before_it_is_ready(demo: Any, tmp_path: Path) -> None:
    evals = [{"messages": [{"role": "user", "content": PROMPT}], "contains": ["SELECT"], "matches": ["(?i)order by"]}]
    with demo.http() as http:
        http.post("/api/v1/adapters", json={"name": "judged"}).raise_for_status()
        try:
            refused = upload(http, "judged", "pirate", {"evals": evals})
            assert refused.status_code == 422, refused.text
            assert [row["severity"] for row in refused.json()["rows"] if row["check"] == "eval"] == ["error"]
            made = upload(http, "judged", "sql", {"evals": evals, "lineage": {"training_run": "run-7"}})
            assert made.status_code == 201, made.text
            assert (made.json()["version"], made.json()["evals"][0]["passed"]) == (2, True)
            found = http.get("/api/v1/versions", params={"training_run": "run-7"}).json()["items"]
            assert [(item["adapter"], item["version"]) for item in found] == [("judged", 2)]
            later = upload(http, "judged", "extract", {}, Prefer="respond-async")
            assert later.status_code == 202
            job = f"/api/v1/jobs/{later.json()['job']['id']}"
            with http.stream("GET", job, headers={"Accept": "text/event-stream"}) as stream:
                frames = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
            assert (frames[-1]["state"], frames[-1]["version_state"]) == ("succeeded", "ready")
            back_up(demo, tmp_path / "backup")
        finally:
            http.delete("/api/v1/adapters/judged")


def served(server: Any) -> set[str]:
    """Digests of the versions that are ready."""
    with server.http() as http:
        names = [adapter["name"] for adapter in http.get("/api/v1/adapters?limit=1000").json()["items"]]
        versions = [http.get(f"/api/v1/adapters/{name}/versions").json()["items"] for name in names]
    return {version["digest"] for items in versions for version in items if version["state"] == "ready"}


def back_up(server: Any, folder: Path) -> None:
    """With the server running, as an operator does it."""
    data_dir = server.process.args[server.process.args.index("--data-dir") + 1]
    command = [sys.executable, "-m", "multiflora", "db", "backup", str(folder), "--data-dir", data_dir]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    contents = json.loads((folder / "backup.json").read_text())
    assert contents["artifacts"] >= 5
    # Adapters that other tests of this server have deleted may be named there; what is served may not.
    assert served(server).isdisjoint(contents["missing"])
