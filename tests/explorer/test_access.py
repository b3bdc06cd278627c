"""Who may ask the explorer, and who waits for the model."""

import asyncio
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.explorer.access import KnownNames, check_hosts
from neuroglot.explorer.turns import Turns


def status(headers, host="127.0.0.1", allowed=(), server="127.0.0.1", kind="http"):
    """What a request gets: 200 if it comes through."""
    said = []

    async def app(scope, receive, send):
        said.append(200)

    async def send(message):
        said.append(message.get("status") or message.get("code"))

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": kind, "headers": raw, "server": (server, 7860)}
    asyncio.run(KnownNames(app, host, allowed)(scope, None, send))
    return said[0]


@pytest.mark.parametrize("name", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860"])
def test_its_own_names_are_answered(name):
    assert status([("host", name)]) == 200
    assert status([("host", name), ("origin", f"http://{name}")]) == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("host", "evil.example")],  # its name points here now
        [("host", "127.0.0.1.evil.example:7860")],
        [("host", "evil.example@127.0.0.1")],
        [("host", "127.0.0.1/evil.example")],
        [("host", "")],
        [],
        [("host", "127.0.0.1"), ("host", "evil.example")],
        [("host", "127.0.0.1:port")],
        [("host", "127.0.0.1:7860"), ("origin", "http://evil.example")],
        [("host", "127.0.0.1:7860"), ("origin", "http://127.0.0.1:9999")],  # another program of this machine
        [("host", "127.0.0.1:7860"), ("origin", "null")],
        [("host", "127.0.0.1:7860"), ("origin", "file://")],
        [("host", "127.0.0.1:7860"), ("x-forwarded-host", "evil.example")],
        [("host", "192.168.1.5:7860")],  # not where this connection came in
    ],
)
def test_others_are_refused(headers):
    assert status(headers) == 403
    assert status(headers, kind="websocket") == 1008


def test_where_it_listens_and_what_is_allowed():
    assert status([("host", "10.0.0.7:7860")], host="0.0.0.0", server="10.0.0.7") == 200
    assert status([("host", "evil.example")], host="0.0.0.0", server="10.0.0.7") == 403
    assert status([("host", "box.lan")], host="box.lan", server="10.0.0.7") == 200
    proxied = [
        ("host", "127.0.0.1:7860"),
        ("x-forwarded-host", "lab.example.org"),
        ("origin", "https://lab.example.org"),
    ]
    assert status(proxied) == 403
    assert status(proxied, allowed=["lab.example.org"]) == status(proxied, allowed=["*.example.org"]) == 200
    assert status([("host", "example.org.evil.example")], allowed=["*.example.org"]) == 403


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_header_is_a_traceback(host, origin):
    raw = [("host", host.encode("utf-8").decode("latin-1")), ("origin", origin.encode("utf-8").decode("latin-1"))]
    assert status(raw) in (200, 403)


def test_hosts_are_names():
    assert check_hosts(["lab.example.org", "*.hf.space", "::1"]) == ["lab.example.org", "*.hf.space", "::1"]
    for wrong in ("http://lab", "lab:80", "lab/x", ""):
        with pytest.raises(ng.NeuroglotError, match="not the name of a host"):
            check_hosts([wrong])


def test_a_line_is_served_in_its_order_and_has_an_end():
    turns = Turns(2)
    first, second, third, fourth = (turns.wait(0.01) for _ in range(4))
    assert [next(first), next(second), next(third)] == [0, 1, 2]
    with pytest.raises(ng.NeuroglotError, match="no more may wait"):
        next(fourth)
    second.close()  # who leaves is no longer waited for
    assert next(third) == 1
    first.close()
    assert next(third) == 0
    third.close()
    assert len(turns) == 0
    with closing(turns.wait()) as again:
        assert next(again) == 0
