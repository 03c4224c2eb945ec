"""The registry against a model of it: whatever is done in whatever order, names mean what the model says."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.platform.registry.house import House, adapter_files

NAMES = st.sampled_from(["a", "b"])
ALIASES = st.sampled_from(["default", "x"])
SEEDS = st.sampled_from([1, 2, 3])
NUMBERS = st.integers(1, 5)
FILES = {seed: adapter_files(seed) for seed in (1, 2, 3)}
# More for a long look: MULTIFLORA_STATE_MACHINE_EXAMPLES=100 makes 2,000 steps.
EXAMPLES = int(os.environ.get("MULTIFLORA_STATE_MACHINE_EXAMPLES", "6"))
SETTINGS = settings(max_examples=EXAMPLES, stateful_step_count=20, deadline=None)


class Version:
    """state: ready, deleted or purged."""

    def __init__(self, seed):
        self.seed, self.state = seed, "ready"


class Adapter:
    """versions: by number. aliases: the present targets. previous: where a rollback of each alias goes."""

    def __init__(self):
        self.versions, self.aliases, self.previous = {}, {}, {}

    def point(self, alias, target):
        if target is None:
            del self.aliases[alias]
            self.previous.pop(alias, None)
        else:
            present = self.aliases.get(alias)
            if present is not None and present != target:
                self.previous[alias] = present
            self.aliases[alias] = target

    def refusal(self, target):
        """The status with which a target is refused; None: it is fine."""
        states = [self.versions[n].state if n in self.versions else "purged" for n in numbers(target)]
        bad = next((state for state in states if state != "ready"), None)
        return {"purged": 404, "deleted": 409, None: None}[bad]

    @property
    def ready(self):
        return {number: version for number, version in self.versions.items() if version.state == "ready"}


def numbers(target):
    return [target["version"]] if "version" in target else [int(number) for number in target["split"]]


class RegistryMachine(RuleBasedStateMachine):
    """model: live adapters by name."""

    def database(self):
        """A new database's URL; None is SQLite in the data folder."""
        return

    @initialize()
    def start(self):
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.url = self.database()
        self.model = {}
        self.etags = set()
        self.digests = {}
        self.reopen()

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def reopen(self):
        self.house = self.run(House(self.folder / "data", self.url).open())

    def send(self, method, path, **options):
        return self.run(self.house.admin.request(method, f"/adapters/{path}", **options))

    @rule(name=NAMES)
    def create(self, name):
        response = self.run(self.house.admin.post("/adapters", json={"name": name}))
        assert response.status_code == (409 if name in self.model else 201)
        self.model.setdefault(name, Adapter())

    @rule(name=NAMES)
    def delete(self, name):
        assert self.send("DELETE", name).status_code == (204 if self.model.pop(name, None) else 404)

    @rule(name=NAMES, seed=SEEDS, promote=st.booleans())
    def upload(self, name, seed, promote):
        response = self.run(self.house.upload(name, FILES[seed], params={"promote": promote}))
        adapter = self.model.get(name)
        if adapter is None:
            assert response.status_code == 404
            return
        ready = adapter.ready
        known = min((number for number, version in ready.items() if version.seed == seed), default=None)
        assert response.status_code == (200 if known else 201), response.text
        number = response.json()["version"]
        assert number == (known or len(adapter.versions) + 1)
        adapter.versions.setdefault(number, Version(seed))
        if (promote or not ready) and adapter.aliases.get("default") != {"version": number}:
            adapter.point("default", {"version": number})
        self.digests.setdefault(seed, response.json()["digest"])

    @rule(name=NAMES, alias=ALIASES, number=NUMBERS, fresh=st.booleans())
    def move(self, name, alias, number, fresh):
        self.put(name, alias, {"version": number}, fresh)

    @rule(name=NAMES, alias=ALIASES, first=NUMBERS, second=NUMBERS, share=st.integers(1, 99))
    def split(self, name, alias, first, second, share):
        if first != second:
            self.put(name, alias, {"split": {str(first): share, str(second): 100 - share}}, True)

    def put(self, name, alias, target, fresh):
        path = f"{name}/aliases/{alias}"
        before = self.send("GET", path)
        headers = {"If-Match": before.headers["etag"]} if fresh and before.is_success else {}
        response = self.send("PUT", path, json=target, headers=headers)
        adapter = self.model.get(name)
        if adapter is None:
            assert response.status_code == 404
        elif alias in adapter.aliases and not fresh:
            assert response.status_code == 428
        elif adapter.refusal(target):
            assert response.status_code in (404, 409)
        else:
            assert response.status_code == (200 if alias in adapter.aliases else 201)
            assert response.headers["etag"] not in self.etags
            self.etags.add(response.headers["etag"])
            adapter.point(alias, target)

    @rule(name=NAMES, alias=ALIASES)
    def delete_alias(self, name, alias):
        response = self.send("DELETE", f"{name}/aliases/{alias}", headers={"If-Match": "*"})
        adapter = self.model.get(name)
        existed = adapter is not None and alias in adapter.aliases
        assert response.status_code == (204 if existed else 404)
        if existed:
            adapter.point(alias, None)

    @rule(name=NAMES, alias=ALIASES)
    def roll_back(self, name, alias):
        response = self.send("POST", f"{name}/aliases/{alias}:rollback")
        adapter = self.model.get(name)
        if adapter is None or alias not in adapter.aliases:
            assert response.status_code == 404
            return
        target = adapter.previous.get(alias)
        if target is None:
            assert response.status_code == 409
        elif adapter.refusal(target):
            assert response.status_code in (404, 409)
        else:
            assert response.status_code == 200, response.text
            adapter.aliases[alias] = target

    @rule(name=NAMES, number=NUMBERS)
    def delete_version(self, name, number):
        version = self.version_of(name, number)
        response = self.send("DELETE", f"{name}/versions/{number}")
        if version is None:
            assert response.status_code == 404
        elif any(number in numbers(target) for target in self.model[name].aliases.values()):
            assert response.status_code == 409
        else:
            assert response.status_code == 200
            version.state = "deleted"

    @rule(name=NAMES, number=NUMBERS)
    def restore_version(self, name, number):
        self.end(name, number, "restore", 200, "ready")

    @rule(name=NAMES, number=NUMBERS)
    def purge_version(self, name, number):
        self.end(name, number, "purge", 204, "purged")

    def end(self, name, number, action, status, state):
        version = self.version_of(name, number)
        response = self.send("POST", f"{name}/versions/{number}:{action}")
        if version is None:
            assert response.status_code == 404
        elif version.state != "deleted":
            assert response.status_code == 409
        else:
            assert response.status_code == status
            version.state = state

    def version_of(self, name, number):
        version = self.model[name].versions.get(number) if name in self.model else None
        return None if version is None or version.state == "purged" else version

    @rule()
    def restart(self):
        self.run(self.house.close())
        self.reopen()

    @invariant()
    def names_mean_what_the_model_says(self):
        if not hasattr(self, "house"):
            return
        registry = self.house.registry
        for name in ("a", "b"):
            adapter = self.model.get(name, Adapter())
            for selector, alias in (("", "default"), ("@x", "x")):
                resolved = registry.resolve(name + selector, None)
                target = adapter.aliases.get(alias)
                assert resolved is None if target is None else resolved.version in numbers(target)
            for number in range(1, 8):
                resolved = registry.resolve(f"{name}@{number}", None)
                version = adapter.ready.get(number)
                assert (resolved and resolved.digest) == (version and self.digests[version.seed])
        assert {row.name for row in registry.served()} == {
            name for name, adapter in self.model.items() if "default" in adapter.aliases
        }

    def teardown(self):
        if hasattr(self, "house"):
            self.run(self.house.close())
            kept = [v for adapter in self.model.values() for v in adapter.versions.values() if v.state != "purged"]
            assert set(self.house.store.digests()) == {self.digests[version.seed] for version in kept}
            self.loop.close()
            shutil.rmtree(self.folder)


def test_on_sqlite():
    run_state_machine_as_test(RegistryMachine, settings=SETTINGS)


@pytest.mark.slow
def test_on_postgresql(postgres, postgres_schema):
    class OnPostgreSQL(RegistryMachine):
        def database(self):
            return postgres.empty(postgres_schema)

    run_state_machine_as_test(OnPostgreSQL, settings=SETTINGS)
