"""vLLM's own calls to load and unload an adapter, mapped onto the registry. Success is plain text, as vLLM's is."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from starlette.responses import PlainTextResponse, Response

from multiflora_platform.auth.dependencies import require_admin
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.model_resolution import ADAPTERS_ARE_OFF
from multiflora_platform.gateway.schemas.decoding import body_schema, read_body
from multiflora_platform.gateway.schemas.requests import LoadAdapterRequest, UnloadAdapterRequest
from multiflora_platform.registry.errors import AdapterExists, AdapterNotFound, VersionRejected
from multiflora_platform.services import Services
from multiflora_platform.web.openai_errors import ApiError
from multiflora_platform.web.problems import Problem

router = APIRouter(tags=["adapters"])


@router.post("/v1/load_lora_adapter", openapi_extra=body_schema(LoadAdapterRequest))
async def load_lora_adapter(request: Request, principal: Principal = Depends(require_admin)) -> Response:
    """Registers lora_path as the adapter lora_name and serves it: a folder below an --allow-source-root, a hub's id,
    hf://, s3:// or file://."""
    services: Services = request.app.state.services
    body = await read_body(request, LoadAdapterRequest)
    if not body.lora_name or not body.lora_path:
        raise _bad("Both 'lora_name' and 'lora_path' must be provided.")
    if not services.settings.enable_lora:
        raise _bad(f"{body.lora_name!r} cannot be loaded: {ADAPTERS_ARE_OFF}.")
    if body.lora_name in services.groups.names:
        raise _bad(f"{body.lora_name!r} is the base model's name.")
    try:
        await services.registry.paths.register(body.lora_name, body.lora_path, principal.actor, body.load_inplace)
    except AdapterExists:
        raise _bad(
            f"The lora adapter '{body.lora_name}' has already been loaded. If you want to load the adapter in place, "
            "set 'load_inplace' to True."
        ) from None
    except Problem as error:
        raise _translated(error) from None
    if body.pinned:
        await _pin(services, body.lora_name, principal)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


async def _pin(services: Services, name: str, principal: Principal) -> None:
    try:
        await services.registry.engine.command("pin", name, None, principal.actor)
    except Problem as error:
        told = _translated(error)
        told.message = f"The lora adapter '{name}' was added, but it is not pinned. {told.message}"
        raise told from None


@router.post("/v1/unload_lora_adapter", openapi_extra=body_schema(UnloadAdapterRequest))
async def unload_lora_adapter(request: Request, principal: Principal = Depends(require_admin)) -> Response:
    """Makes the name a 404, and free again."""
    services: Services = request.app.state.services
    body = await read_body(request, UnloadAdapterRequest)
    if not body.lora_name:
        raise _bad("'lora_name' needs to be provided to unload a LoRA adapter.")
    try:
        await services.registry.adapters.remove(body.lora_name, principal.actor)
    except AdapterNotFound:
        raise _missing(f"The lora adapter '{body.lora_name[:100]}' cannot be found.") from None
    except Problem as error:
        raise _translated(error) from None
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _translated(error: Problem) -> ApiError:
    """vLLM knows 400 and 404 here; what is not the client's fault stays what it is."""
    if error.status >= 500:
        return ApiError(error.status, error.slug.replace("-", "_"), error.detail)
    if error.status == 404:
        return _missing(error.detail)
    detail = error.detail
    if isinstance(error, VersionRejected):
        reasons = dict.fromkeys(str(row["message"]) for row in error.errors)
        detail = " ".join([detail, *(reason for reason in reasons if reason not in detail)])
    return _bad(detail)


def _bad(message: str) -> ApiError:
    return ApiError(400, "invalid_user_input", message, type="InvalidUserInput")


def _missing(message: str) -> ApiError:
    return ApiError(404, "not_found", message, type="NotFoundError")
