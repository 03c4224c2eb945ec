"""What insight's routes refuse, beside what the registry's do."""

from __future__ import annotations

from multiflora_platform.web.problems import Problem


class NotCached(Problem):
    status, slug, title = 404, "not-cached", "The cache has no such prefix, or no room for the pin"


class RequestForgotten(Problem):
    status, slug, title = 404, "request-not-found", "The request is not known, or not any more"
