"""Keys: made once, kept as HMACs, revoked at once; salts; the first start's key."""

from __future__ import annotations

import time

import pytest

from multiflora_platform.auth import keys as keys_module
from multiflora_platform.auth.account_problems import KeyNotFound, TenantExists, TenantNotFound
from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.web.problems import InvalidRequest

ADMIN = "mf-admin-for-tests"


def bearer(key):
    return f"Bearer {key}"


async def make(house, role="admin", tenant=None, name="k"):
    return await house.keys.create_key("test", name=name, role=role, tenant=tenant)


async def reopened(house, **options):
    await house.keys.close()
    house.keys = await KeyStore.open(house.database, house.follower, house.data, **options)
    return house.keys


async def test_a_made_key_authenticates_and_is_not_stored(house):
    made = await make(house)
    assert made.key.startswith("mf-")
    assert len(made.key) >= 3 + 43
    principal = house.keys.authenticate(bearer(made.key))
    assert (principal.role, principal.tenant, principal.key_id) == ("admin", None, made.id)
    await house.close()
    secret = made.key.removeprefix(made.prefix)
    for path in house.data.iterdir():
        if path.is_file():
            content = path.read_bytes()
            assert secret.encode() not in content
            assert ADMIN.encode() not in content


async def test_keys_survive_a_restart(house):
    made = await make(house)
    keys = await reopened(house)
    assert keys.authenticate(bearer(made.key)).key_id == made.id
    assert keys.authenticate(bearer(ADMIN)) is None


async def test_a_key_of_another_server_is_unknown(house):
    made = await make(house)
    (house.data / "secret").unlink()
    keys = await reopened(house, admin_keys=["x"])
    assert keys.authenticate(bearer(made.key)) is None


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic x",
        ADMIN,
        f"Basic {ADMIN}",
        f"Bearer {ADMIN}x",
        "Bearer \ud800",
        "Bearer é",
    ],
)
async def test_what_is_no_key(house, header):
    assert house.keys.authenticate(header) is None


@pytest.mark.parametrize("header", [f"bearer {ADMIN}", f"BEARER  {ADMIN} "])
async def test_the_scheme_is_case_insensitive(house, header):
    assert house.keys.authenticate(header).is_admin


async def test_a_revoked_key_is_refused_at_once_and_stays_listed(house):
    made = await make(house)
    await house.keys.revoke_key("test", made.id)
    await house.keys.revoke_key("test", made.id)
    assert house.keys.authenticate(bearer(made.key)) is None
    (row,) = await house.keys.keys(made.id)
    assert row.revoked_at is not None
    assert not hasattr(row, "key")
    assert not hasattr(row, "hmac")
    keys = await reopened(house, admin_keys=["x"])
    assert keys.authenticate(bearer(made.key)) is None
    with pytest.raises(KeyNotFound):
        await house.keys.revoke_key("test", "key_none")


async def test_a_first_start_makes_one_admin_key(house):
    keys = await reopened(house)
    first = await keys.bootstrap()
    assert keys.authenticate(bearer(first)).is_admin
    keys = await reopened(house)
    assert await keys.bootstrap() is None
    assert keys.authenticate(bearer(first)).is_admin


async def test_a_start_that_fails_before_it_shows_its_key_makes_none(house):
    keys = await reopened(house)
    assert await keys.keys() == []
    assert await (await reopened(house)).bootstrap() is not None


async def test_configured_keys_make_no_further_one(house):
    assert await house.keys.bootstrap() is None
    assert await house.keys.keys() == []
    keys = await reopened(house, admin_keys=["one", "two"])
    assert {keys.authenticate(bearer(key)).key_id for key in ("one", "two")} == {"api-key-1", "api-key-2"}


async def test_a_tenants_key_does_not_count_as_an_admin_key(house):
    await house.keys.tenants.create("test", "acme")
    await make(house, "tenant", "acme")
    assert await (await reopened(house)).bootstrap() is not None


async def test_tenants_and_their_keys(house):
    await house.keys.tenants.create("test", "acme")
    with pytest.raises(TenantExists):
        await house.keys.tenants.create("test", "acme")
    made = await make(house, "tenant", "acme")
    principal = house.keys.authenticate(bearer(made.key))
    assert (principal.role, principal.tenant, principal.is_admin) == ("tenant", "acme", False)
    with pytest.raises(TenantNotFound):
        await make(house, "tenant", "nobody")
    for role, tenant in (("tenant", None), ("admin", "acme")):
        with pytest.raises(InvalidRequest):
            await make(house, role, tenant)


async def test_one_salt_for_a_tenant_and_another_for_everybody_else(house):
    await house.keys.tenants.create("test", "acme")
    await house.keys.tenants.create("test", "other")
    keys = [(await make(house, "tenant", tenant)).key for tenant in ("acme", "acme", "other")]
    keys += [(await make(house)).key, ADMIN]

    def salts():
        return [house.keys.cache_salt(house.keys.authenticate(bearer(key))) for key in keys]

    acme, same, other, admin, configured = salts()
    assert acme == same
    assert admin == configured
    assert len({acme, other, admin}) == 3
    before = salts()
    await reopened(house, admin_keys=[ADMIN])
    assert salts() == before
    assert all(len(salt) == 64 for salt in before)


async def test_no_auth_lets_everybody_in_as_admin(house):
    keys = await reopened(house, no_auth=True)
    assert await keys.bootstrap() is None
    principal = keys.authenticate(None)
    assert principal.is_admin
    assert keys.authenticate("Bearer anything") == principal
    assert keys.cache_salt(principal) == keys.cache_salt(principal) != ""


async def test_last_use_is_written_in_batches(house, monkeypatch):
    made = await make(house)
    header = bearer(made.key)
    before = house.registry.database.commits
    for _ in range(100):
        house.keys.authenticate(header)
    assert house.registry.database.commits == before
    (row,) = await house.keys.keys(made.id)
    assert row.last_used_at is not None
    monkeypatch.setattr(keys_module, "_FLUSH_SECONDS", 0.0)
    house.keys.authenticate(header)
    keys = await reopened(house)
    assert house.registry.database.commits == before + 1
    (row,) = await keys.keys(made.id)
    assert row.last_used_at is not None


async def test_authenticating_is_fast(house):
    header = bearer((await make(house)).key)

    def once():
        start = time.thread_time()
        for _ in range(500):
            house.keys.authenticate(header)
        return (time.thread_time() - start) / 500

    assert min(once() for _ in range(5)) < 100e-6


@pytest.mark.parametrize(
    "name", ["CI of the shop", "Zoë’s laptop", "a/b: c", "鍵", "x" * 64, "鍵\u3000一", "👩\u200d💻", "می\u200cخواهم"]
)
async def test_a_keys_name_is_a_label_for_people(house, name):
    assert (await make(house, name=name)).name == name


@pytest.mark.parametrize("name", ["", " x", "x ", "x" * 65, "a\nb", "a\x1b[2Jb", "a\u202eb", "a\0b", "a\u2028b"])
async def test_a_label_cannot_forge_a_line_of_a_log(house, name):
    with pytest.raises(InvalidRequest, match="printable"):
        await make(house, name=name)
