"""Which base models a database keeps, and the events of that."""

from __future__ import annotations

from tests.platform.registry.house import House

from multiflora_platform.base_models.kept_models import KeptModels
from multiflora_platform.base_models.model_schemas import NewModel

FIRST = NewModel("first", "org/model@main", {"max_model_len": 32}, 0, 2, 2.5)
SECOND = NewModel("second", "/models/second")


async def test_they_are_kept_in_their_order_until_they_are_forgotten(house: House) -> None:
    kept = KeptModels(house.database)
    assert await kept.all() == []
    await kept.keep(SECOND, "admin")
    await kept.keep(FIRST, "admin")
    assert await kept.all() == [SECOND, FIRST]
    # Asked for again after its load failed, otherwise.
    again = NewModel("second", "/models/other")
    await kept.keep(again, "admin")
    assert await kept.all() == [FIRST, again]
    await kept.forget("first", "admin")
    await kept.forget("none", "admin")  # the configuration file's
    assert await kept.all() == [again]
    audit = (await house.admin.get("/audit", params={"page_size": 100})).json()["items"]
    told = [(row["action"], row["target"]) for row in reversed(audit) if row["action"].startswith("model.")]
    assert told == [
        *[("model.loading", name) for name in ("second", "first", "second")],
        *[("model.unloading", name) for name in ("first", "none")],
    ]
