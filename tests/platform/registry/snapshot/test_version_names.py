"""What a digest of the engine is called: by versions, by a mix's recipe, or not at all."""

from __future__ import annotations

from tests.platform.registry.house import adapter_files
from tests.platform.registry.routes.test_version_life import upload

from multiflora_adapters.mixes.recipe import Mix, MixPart, mix_digest
from multiflora_platform.registry.snapshot.version_names import names_of


def digests(house, name):
    entry = house.registry.snapshot.adapters[name]
    return {**entry.digests, **entry.unserved_digests}


async def test_equal_content_is_named_by_every_version_that_has_it(house):
    for name, seeds in (("twin", (1,)), ("one", (3, 1)), ("other", (2,))):
        await house.adapter(name, *seeds)
    snapshot = house.registry.snapshot
    named = {
        f"{name}@{n}": names_of(snapshot, digest)
        for name in snapshot.adapters
        for n, digest in digests(house, name).items()
    }
    assert named == {
        "one@1": (["one"], ["one@1"]),
        "one@2": (["one", "twin"], ["one@2", "twin@1"]),
        "twin@1": (["one", "twin"], ["one@2", "twin@1"]),
        "other@1": (["other"], ["other@1"]),
    }
    assert names_of(snapshot, None) == names_of(snapshot, "e" * 64) == ([], ())


async def test_a_rejected_version_keeps_its_name(open_house):
    seen = []

    async def answer(digest, one):
        seen.append((digest, names_of(house.registry.snapshot, digest)))
        return "no SQL"

    house = await open_house(answer_eval=answer)
    await house.adapter("a", 1)
    rejected = await upload(house, "a", 2, {"evals": [{"prompt": "Count", "contains": ["COUNT("]}]})
    assert rejected.status_code == 422
    ((digest, during),) = seen
    assert digest == digests(house, "a")[2]
    assert during.versions == names_of(house.registry.snapshot, digest).versions == ["a@2"]
    # What was rejected before is served now: its name is the version that is.
    assert (await house.upload("a", adapter_files(2))).status_code == 201
    assert names_of(house.registry.snapshot, digest).versions == ["a@3"]


async def test_a_mix_is_named_by_its_recipe(house):
    for name, seed in (("twin", 1), ("one", 1), ("other", 2)):
        await house.adapter(name, seed)
    one, other = digests(house, "one")[1], digests(house, "other")[1]
    parts = {one: "0.5 × (one@1, twin@1)", other: "-1 × other@1"}
    recipe = " + ".join(parts[digest] for digest in sorted(parts))
    summands = (MixPart(one, 0.5), MixPart(other, -1.0))
    assert names_of(house.registry.snapshot, mix_digest(Mix(summands))) == ((), (recipe,))
    assert names_of(house.registry.snapshot, mix_digest(Mix(summands, "ties", 0.5))) == ((), (f"ties: {recipe}",))
