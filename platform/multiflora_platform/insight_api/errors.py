"""What insight's routes refuse, beside what the registry's do."""

from __future__ import annotations

from multiflora_platform.web.problems import Problem


class NotCached(Problem):
    status, slug, title = 404, "not-cached", "The cache has no such prefix, or no room for the pin"


class RequestForgotten(Problem):
    status, slug, title = 404, "request-not-found", "The request is not known, or not any more"


class ProfileRunning(Problem):
    status, slug, title = 409, "profile-running", "Another profile is being recorded"


class ProfileNotFound(Problem):
    status, slug, title = 404, "profile-not-found", "The profile is not known, or not any more"


class ProfileNotReady(Problem):
    status, slug, title = 409, "profile-not-ready", "The profile has no trace"
