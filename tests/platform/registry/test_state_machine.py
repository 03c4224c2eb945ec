"""The registry against a model of it: whatever is done in whatever order, names mean what the model says."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from .house import House, adapter_files

NAMES = st.sampled_from(["a", "b"])
ALIASES = st.sampled_from(["default", "x"])
SEEDS = st.sampled_from([1, 2, 3])
FILES = {seed: adapter_files(seed) for seed in (1, 2, 3)}


class RegistryMachine(RuleBasedStateMachine):
    """model: name -> {"versions": {number: seed}, "aliases": {alias: number}}."""

    @initialize()
    def start(self):
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.model = {}
        self.etags = set()
        self.digests = {}
        self.reopen()

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def reopen(self):
        self.house = self.run(House(self.folder / "data").open())

    @rule(name=NAMES)
    def create(self, name):
        response = self.run(self.house.admin.post("/adapters", json={"name": name}))
        assert response.status_code == (409 if name in self.model else 201)
        self.model.setdefault(name, {"versions": {}, "aliases": {}})

    @rule(name=NAMES)
    def delete(self, name):
        response = self.run(self.house.admin.delete(f"/adapters/{name}"))
        assert response.status_code == (204 if self.model.pop(name, None) else 404)

    @rule(name=NAMES, seed=SEEDS, promote=st.booleans())
    def upload(self, name, seed, promote):
        response = self.run(self.house.upload(name, FILES[seed], params={"promote": promote}))
        adapter = self.model.get(name)
        if adapter is None:
            assert response.status_code == 404
            return
        versions, aliases = adapter["versions"], adapter["aliases"]
        known = next((number for number, other in versions.items() if other == seed), None)
        assert response.status_code == (200 if known else 201)
        number = response.json()["version"]
        assert number == (known or len(versions) + 1)
        if promote or not versions:
            aliases["default"] = number
        versions[number] = seed
        self.digests.setdefault(seed, response.json()["digest"])

    @rule(name=NAMES, alias=ALIASES, number=st.integers(1, 4), fresh=st.booleans())
    def move(self, name, alias, number, fresh):
        path = f"/adapters/{name}/aliases/{alias}"
        before = self.run(self.house.admin.get(path))
        headers = {"If-Match": before.headers.get("etag", "*")} if fresh and before.is_success else {}
        response = self.run(self.house.admin.put(path, json={"version": number}, headers=headers))
        adapter = self.model.get(name, {"versions": {}, "aliases": {}})
        if name in self.model and alias in adapter["aliases"] and not fresh:
            assert response.status_code == 428
        elif number not in adapter["versions"]:
            assert response.status_code == 404
        else:
            assert response.status_code == (200 if alias in adapter["aliases"] else 201)
            assert response.headers["etag"] not in self.etags
            self.etags.add(response.headers["etag"])
            adapter["aliases"][alias] = number

    @rule(name=NAMES, alias=ALIASES)
    def delete_alias(self, name, alias):
        path = f"/adapters/{name}/aliases/{alias}"
        response = self.run(self.house.admin.delete(path, headers={"If-Match": "*"}))
        existed = self.model.get(name, {"aliases": {}})["aliases"].pop(alias, None)
        assert response.status_code == (204 if existed else 404)

    @rule()
    def restart(self):
        self.run(self.house.close())
        self.reopen()

    @invariant()
    def names_mean_what_the_model_says(self):
        if not hasattr(self, "house"):
            return
        resolve = self.house.registry.resolve
        for name in ("a", "b"):
            adapter = self.model.get(name, {"versions": {}, "aliases": {}})
            for selector, number in [("", adapter["aliases"].get("default")), ("@x", adapter["aliases"].get("x"))]:
                resolved = resolve(name + selector, None)
                assert (resolved and resolved.version) == number
            for number in range(1, 5):
                resolved = resolve(f"{name}@{number}", None)
                seed = adapter["versions"].get(number)
                assert (resolved and resolved.digest) == (seed and self.digests[seed])
        served = {row.name for row in self.house.registry.served()}
        assert served == {name for name, adapter in self.model.items() if "default" in adapter["aliases"]}

    def teardown(self):
        if hasattr(self, "house"):
            self.run(self.house.close())
            needed = {self.digests[seed] for adapter in self.model.values() for seed in adapter["versions"].values()}
            assert set(self.house.store.digests()) == needed
            self.loop.close()
            shutil.rmtree(self.folder)


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
