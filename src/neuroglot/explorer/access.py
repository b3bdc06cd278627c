"""Who may ask the explorer: requests to names that it is known by, from pages of its own.

A page of another site cannot read what the explorer says; but it can have its own name point to the machine that the
explorer runs on, and then it asks as if it were the explorer's own (DNS rebinding). Such a request carries the foreign
name as its `Host`, and one that another page sends carries that page's as its `Origin`.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from neuroglot.errors import NeuroglotError

__all__ = ["KnownNames", "check_hosts"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

Scope = dict[str, Any]


class KnownNames:
    """Answers requests to known names from pages under them, and refuses all others with a sentence.

    Known are the name it listens on, this machine's own names for itself, the address that a connection came in at,
    and those that `allowed` adds.

    Args:
        app: answers what is let through (ASGI).
        host: where it listens.
        allowed: further names, such as `lab.example.org` or `*.example.org`; `*` is any.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], host: str, allowed: Sequence[str] = ()):
        self.app = app
        self.allowed = [name.lower() for name in allowed]
        self.known = [*LOOPBACK, *([] if host in EVERYWHERE else [host.lower()])]

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        """Let a request through, or refuse it."""
        refusal = self.refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            body = json.dumps({"error": refusal}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def refusal(self, scope: Scope) -> str | None:
        """Why a request is refused; None if it is not."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        asked = headers.get("host", [])
        if len(asked) != 1 or not self._is_known(asked[0], scope):
            return f"This explorer is not called {', '.join(asked)[:80] or 'nothing'}; allow it with --allowed-hosts."
        forwarded = [part.strip() for value in headers.get("x-forwarded-host", []) for part in value.split(",")]
        for name in forwarded:  # addresses that the app gives its pages are made from it
            if not self._is_known(name, scope):
                return f"This explorer is not called {name[:80]}; allow it with --allowed-hosts."
        for origin in headers.get("origin", []):
            if not self._is_own(origin, [asked[0], *forwarded]):
                return f"Pages of {origin[:80]} may not ask this explorer; allow them with --allowed-hosts."
        return None

    def _is_known(self, address: str, scope: Scope) -> bool:
        name = _split(address)[0]
        here = scope.get("server") or ("",)  # the address that this connection came in at: no name can be behind it
        return bool(name) and (name in self.known or name == here[0] or self._is_allowed(name))

    def _is_allowed(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.allowed)

    def _is_own(self, origin: str, addresses: Sequence[str]) -> bool:
        """Whether a page is of the address that was asked, port and all, or of an allowed name."""
        scheme, _, rest = origin.partition("://")
        name, port = _split(rest)
        if not name or scheme not in PORTS:
            return False
        own = [(host, own_port or PORTS[scheme]) for host, own_port in map(_split, addresses)]
        return self._is_allowed(name) or (name, port or PORTS[scheme]) in own


def check_hosts(names: Sequence[str]) -> list[str]:
    """Names of hosts, without scheme, port and path.

    Raises:
        NeuroglotError: one is not just a name.
    """
    for name in names:
        if not name or any(sign in name for sign in "/@?# ") or (":" in name and name.count(":") < 2):
            raise NeuroglotError(
                f"{name!r} is not the name of a host; give names such as lab.example.org, no addresses."
            )
    return list(names)


def _split(address: str) -> tuple[str, int | None]:
    """The name, in lower case, and the port of `name:port`; no name where it is no such thing."""
    try:
        parts = urlsplit(f"//{address}")
        plain = not (parts.path or parts.query or parts.fragment or parts.username)
        return (parts.hostname or "" if plain else ""), parts.port
    except ValueError:
        return "", None
