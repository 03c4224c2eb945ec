"""Why nobody was signed in: a sentence for the person at the sign-in page, with the cause and the next step.

It holds no token, no secret and no address inside the operator's network; details go to the server's log.
"""

from __future__ import annotations

_AGAIN = "Sign in again."


class SignInRefused(Exception):
    """`str()` is the sentence."""


def provider_away() -> SignInRefused:
    return SignInRefused(
        "The sign-in provider does not answer. Try again in a minute, or sign in with a key; the server's log has the "
        "cause for its administrator."
    )


def provider_unusable() -> SignInRefused:
    return SignInRefused(
        "The sign-in provider answers what this server cannot use. Its administrator finds the cause in the server's "
        "log and with `multiflora doctor`; a key still signs in."
    )


def wrong_client() -> SignInRefused:
    return SignInRefused(
        "The sign-in provider does not accept this server. Its administrator has to check --oidc-client-id and "
        "--oidc-client-secret."
    )


def not_begun_here() -> SignInRefused:
    return SignInRefused(
        "This sign-in was not begun in this browser, took longer than ten minutes, or has been finished already. "
        + _AGAIN
    )


def code_spent() -> SignInRefused:
    return SignInRefused("The provider's answer was used already, or has expired. " + _AGAIN)


def ended_meanwhile() -> SignInRefused:
    return SignInRefused("The sign-in provider has ended this sign-in already. " + _AGAIN)


def denied() -> SignInRefused:
    return SignInRefused(
        "The sign-in was cancelled, or the provider does not let you use this server. Sign in again, or ask the "
        "provider's administrator for access."
    )


def provider_said(error: str) -> SignInRefused:
    """error: a code of OAuth's, as `temporarily_unavailable`; what is none is not repeated."""
    is_code = error.isascii() and error.replace("_", "").isalpha() and len(error) <= 40
    shown = f" ({error})" if is_code else ""
    return SignInRefused(f"The sign-in provider refused{shown}. Try again, or ask its administrator.")


def clocks_differ() -> SignInRefused:
    return SignInRefused(
        "The clocks of this server and of the sign-in provider differ by more than a minute. An administrator has to "
        "set them (NTP); then sign in again."
    )


def for_another() -> SignInRefused:
    return SignInRefused(
        "The provider's token is for another application or from another provider. An administrator has to check "
        "--oidc-client-id and --oidc-issuer."
    )


def token_refused() -> SignInRefused:
    return SignInRefused(
        "The provider's token cannot be trusted, and nobody was signed in. Sign in again; if that does not help, an "
        "administrator finds the cause in the server's log."
    )


def too_long_ago() -> SignInRefused:
    return SignInRefused(
        "You signed in at the provider longer ago than this server allows. Sign out there, then sign in again."
    )


def no_role(name: str, claims: str) -> SignInRefused:
    """claims: those that were looked at."""
    return SignInRefused(
        f"{name} may not use this server: {claims} of the account gives no role here. Ask an administrator for access."
    )


def unknown_tenant(name: str, tenants: str) -> SignInRefused:
    return SignInRefused(
        f"{name} belongs to {tenants}, which this server does not know as a tenant. Ask an administrator to make it."
    )


def several_tenants(name: str, tenants: str) -> SignInRefused:
    return SignInRefused(
        f"{name} belongs to several tenants of this server ({tenants}), and a session is of one. Ask an administrator "
        "to leave one of them in the claim."
    )


def tenant_disabled(tenant: str) -> SignInRefused:
    return SignInRefused(f"The tenant {tenant} is disabled. Ask an administrator.")
