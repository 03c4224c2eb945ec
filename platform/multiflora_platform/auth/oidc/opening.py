"""From settings to single sign-on, and whether the provider can be used, for `multiflora doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiflora_platform.auth.oidc.attempts import SignInAttempts
from multiflora_platform.auth.oidc.provider import Provider
from multiflora_platform.auth.oidc.refusals import SignInRefused
from multiflora_platform.settings import ConfigurationError, Settings

if TYPE_CHECKING:
    from multiflora_platform.auth.keys import KeyStore
    from multiflora_platform.auth.oidc.sign_on import SingleSignOn


def provider_of(settings: Settings) -> Provider | None:
    """None without --oidc-issuer. Raises ConfigurationError."""
    if settings.oidc_issuer is None or settings.oidc_client_id is None:
        return None
    return Provider(settings.oidc_issuer, settings.oidc_client_id, _secret(settings))


def identity_of(settings: Settings) -> str | None:
    """Of the provider whose people may have sessions."""
    return None if settings.oidc_issuer is None else f"{settings.oidc_issuer} {settings.oidc_client_id}"


def open_sign_on(settings: Settings, keys: KeyStore) -> SingleSignOn | None:
    """None without --oidc-issuer. Asks the provider nothing. Raises ConfigurationError."""
    provider = provider_of(settings)
    if provider is None:
        return None
    try:
        from multiflora_platform.auth.oidc.sign_on import SingleSignOn
    except ImportError:
        raise ConfigurationError("--oidc-issuer needs PyJWT; install it with: pip install 'multiflora[oidc]'") from None
    return SingleSignOn(settings, provider, SignInAttempts(keys.secret), keys.tenants)


async def sign_on_checks(settings: Settings) -> list[dict[str, Any]]:
    """A row as of `multiflora doctor`, where an issuer is set."""
    try:
        provider = provider_of(settings)
        if provider is None:
            return []
        try:
            metadata = await provider.metadata()
            await provider.signing_key(None)
        finally:
            await provider.close()
    except (SignInRefused, ConfigurationError) as error:
        return [{"state": "error", "check": "sign-in", "found": f"{settings.oidc_issuer}: {error}", "advice": _ADVICE}]
    end = "with" if metadata.end_session_endpoint else "without"
    told = "tells" if metadata.backchannel_logout_supported else "does not tell"
    found = f"{settings.oidc_issuer} answers, {end} an end of its sessions, and {told} servers of sign-outs"
    return [{"state": "ok", "check": "sign-in", "found": found, "advice": ""}]


_ADVICE = "Check --oidc-issuer against `issuer` in the provider's /.well-known/openid-configuration, and the way to it."


def _secret(settings: Settings) -> str | None:
    if settings.oidc_client_secret_file is None:
        return settings.oidc_client_secret
    try:
        return settings.oidc_client_secret_file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--oidc-client-secret-file {settings.oidc_client_secret_file}: {error}") from None
