"""The server itself: its settings, its checks and its profiles."""

from __future__ import annotations

import msgspec

from multiflora_platform.observability.profiles import Profile


class ProfilePage(msgspec.Struct, frozen=True):
    items: list[Profile]


class SettingView(msgspec.Struct, frozen=True):
    """source: cli, env, file, default or device. value: secrets hidden."""

    name: str
    value: str
    source: str
    description: str


class SettingPage(msgspec.Struct, frozen=True):
    items: list[SettingView]


class DoctorRow(msgspec.Struct, frozen=True):
    check: str
    ok: bool
    detail: str
    next_step: str


class DoctorPage(msgspec.Struct, frozen=True):
    items: list[DoctorRow]
