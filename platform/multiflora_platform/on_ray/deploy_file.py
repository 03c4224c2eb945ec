"""What `multiflora ray deploy` reads: groups of engines, each with settings of `multiflora engine` and its scale.

Knows no Ray.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from multiflora_platform.configuration import configure_keys, read_keys
from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.web import typed_json

_Count = Annotated[int, msgspec.Meta(ge=1, le=64)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_NOT_HERE = {
    "listen": "the address is chosen where the engine runs; give `ports`",
    "advertise": "the address is chosen where the engine runs; give `ports`",
    "data_parallel_size": "give `replicas`",
    "kv_offload_dir": "engines cannot share a folder of copies",
    "models": "give each base model as a group of its own",
}


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How many engines of a group there are, and what each takes of its node."""

    replicas: _Count = 1
    # Both, in the place of replicas: as many as the load wants.
    min_replicas: _Count | None = None
    max_replicas: _Count | None = None
    # Seconds for which more, or fewer, must have been wanted.
    up_after: _Seconds = 10.0
    down_after: _Seconds = 300.0
    # Of each engine. Default: its threads or, where those are not given, one for each rank.
    cpus: Annotated[float, msgspec.Meta(gt=0)] | None = None
    # Default: one for each rank, where the cluster has GPUs and the engine may use them.
    gpus: Annotated[int, msgspec.Meta(ge=0)] | None = None
    # Further ones of Ray's, by name.
    resources: dict[str, float] = {}
    # First and last port on which engines listen; None: any free one.
    ports: tuple[_Port, _Port] | None = None
    # Whether a new engine serves before an old one ends, when they are replaced.
    surge: bool = True


class GroupToDeploy(msgspec.Struct, frozen=True):
    """keys: of Settings, as the file has them, with absolute paths. settings: with defaults and this environment, to be
    looked at, not to be sent: what keys leave out is each node's own."""

    name: str
    scale: Scale
    keys: dict[str, Any]
    settings: Settings


def read_deploy_file(path: Path, environ: Mapping[str, str] = os.environ) -> Sequence[GroupToDeploy]:
    """Raises ConfigurationError naming the key."""
    common = read_keys(path, str(path))
    groups = common.pop("groups", None)
    if not isinstance(groups, list) or not groups:
        raise ConfigurationError(f"{path} needs `groups:`, a list with a `group:` and a `model:` each")
    found = []
    for number, given in enumerate(groups, start=1):
        if not isinstance(given, dict):
            raise ConfigurationError(f"{path}: groups: number {number} must hold `key: value` lines")
        found.append(_group({**common, **given}, f"{path}: groups: {given.get('group', f'number {number}')}", environ))
    names = [group.name for group in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigurationError(f"{path}: there are two groups {twice!r}; choose another name for one of them")
    return found


def _group(given: Mapping[str, Any], place: str, environ: Mapping[str, str]) -> GroupToDeploy:
    keys = {str(name).replace("-", "_"): value for name, value in given.items()}
    if not isinstance(keys.get("group"), str):
        raise ConfigurationError(f"{place} needs `group:`, the name by which gateways find it")
    if wrong := sorted(_NOT_HERE.keys() & keys.keys()):
        raise ConfigurationError(f"{place}: {wrong[0]}: {_NOT_HERE[wrong[0]]}")
    scale = _scale({name: keys.pop(name) for name in keys.keys() & set(Scale.__struct_fields__)}, place)
    try:
        settings = configure_keys(keys, environ, place).settings
    except ConfigurationError as error:
        raise ConfigurationError(f"{place}: {error}") from None
    return GroupToDeploy(keys["group"], scale, _anywhere(keys, settings), settings)


def _scale(given: Mapping[str, Any], place: str) -> Scale:
    try:
        scale = msgspec.convert(given, Scale)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{place}: {typed_json.told(str(error))[1]}") from None
    least, most = scale.min_replicas, scale.max_replicas
    if (least is None) != (most is None) or (least is not None and "replicas" in given):
        raise ConfigurationError(f"{place}: give `replicas`, or both `min_replicas` and `max_replicas`")
    if least is not None and most is not None and least > most:
        raise ConfigurationError(f"{place}: min_replicas is {least}, more than max_replicas, {most}")
    if scale.ports is not None and scale.ports[0] > scale.ports[1]:
        raise ConfigurationError(f"{place}: ports: the first, {scale.ports[0]}, is above the last, {scale.ports[1]}")
    return scale


def _anywhere(keys: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Paths as they are meant here: engines run in other folders."""
    found = dict(keys)
    for name in keys:
        value = getattr(settings, name, None)
        if isinstance(value, Path) or (name == "model" and value and Path(value).expanduser().is_dir()):
            found[name] = str(Path(value).expanduser().absolute())
    return found
