"""The page of each framework is true: its app starts as the page says, and answers curl as the page shows."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.loop_clock import HANGS
from tests.reader import lasting
from tests.servers.parts import free_port
from tests.test_docs import PAGES, ROOT, _blocks, _name

# The port that the page shows, and what the command that starts the server takes for another one.
PORTS = {
    "howto-aiohttp.md": (8080, ""),  # its command names the port
    "howto-django.md": (8000, "--noreload {port}"),
    "howto-fastapi.md": (8000, "--port {port}"),
    "howto-flask.md": (5000, "--port {port}"),
    "howto-litestar.md": (8000, "--port {port}"),
    "howto-quart.md": (5000, "--port {port}"),
}
# Each of these pages has these parts, in this order. What is special to its framework comes after them.
PARTS = ["Install", "A whole app", "Start it", "What curl answers", "Log in and out", "Devices", "CSRF"]


def _text(page):
    return (ROOT / "docs" / page).read_text()


def _console(page, part):
    """Return the console that a part of the page shows."""
    return re.search(rf"^## {part}\n.*?^```console\n(.*?)^```", _text(page), re.M | re.S)[1]


def _environment():
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    others = {name: value for name, value in os.environ.items() if not name.startswith("ROOMKEY_")}
    return {**others, "PATH": path, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(params=PORTS)
def page(request):
    return request.param


@pytest.fixture
def port(page, tmp_path):
    """The app of the page in a process of its own, started as the page says."""
    shown, option = PORTS[page]
    for block in _blocks(ROOT / "docs" / page):
        (tmp_path / (_name(ROOT / "docs" / page, block) or "other.py")).write_text(block)
    port = free_port()
    *before, server = re.findall(r"^\$ (.*)$", _console(page, "Start it"), re.M)
    server = f"exec {server} {option.format(port=port)}".replace(str(shown), str(port))
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-e", "-c", "\n".join([*before, server])],
            cwd=tmp_path,
            env=_environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    limit = time.monotonic() + HANGS
    with socket.socket() as probe:
        while probe.connect_ex(("127.0.0.1", port)):
            assert process.poll() is None and time.monotonic() < limit, log.read_text()
            time.sleep(0.05)
    yield port
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=HANGS)


def _same(text):
    """Return what curl said without what differs each time: also versions, CSRF tokens and public names of sessions."""
    text = text.replace("\r", "").replace("Set-Cookie:  ", "Set-Cookie: ")
    text = re.sub(r"^(date|server):.*$", lambda found: f"{found[1].lower()}:", text, flags=re.M | re.I)
    text = re.sub(r"csrftoken=\w+; expires=[^;]+;", "csrftoken=...;", text)
    text = re.sub(r"sessionid=[\w-]{76};", "sessionid=...;", text)
    return lasting(re.sub(r"\b[0-9a-f]{64}\b", "<handle>", text))


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_what_curl_shows_is_true(page, port, tmp_path):
    """Each command answers what the page shows, but for times, versions, cookies and the sessions' public names."""
    shown = _console(page, "What curl answers").replace(f"localhost:{PORTS[page][0]}", f"127.0.0.1:{port}")
    said = ""
    for command in re.findall(r"^\$ (curl .*)$", shown, re.M):
        run = subprocess.run(
            ["bash", "-c", command.replace("curl ", "curl --silent ", 1)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=HANGS,
        )
        assert run.returncode == 0, command
        said += f"$ {command}\n{run.stdout.rstrip()}\n"
    assert _same(said) == _same(shown)


def test_the_pages_are_alike(page):
    """Each page of a framework has the same parts first, and says what differs and how to test."""
    parts = re.findall(r"^## (.*)$", _text(page), re.M)
    assert parts[: len(PARTS)] == PARTS
    assert "Tests" in parts and any(part.startswith("What differs") for part in parts)


def test_every_page_is_linked():
    """Each page of the documentation is reached from the README or from another page."""
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
        if (page.parent / target).resolve() != page.resolve()
    }
    linked.add((ROOT / "docs" / "index.md").resolve())  # the first page of the site
    assert [page.name for page in PAGES if page.parent.name == "docs" and page.resolve() not in linked] == []


@pytest.mark.parametrize("source", PAGES, ids=lambda source: source.name)
def test_every_link_into_a_page_finds_its_heading(source):
    """What follows the `#` of a link is a heading of the page that it leads to."""
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", source.read_text()):
        page = (source.parent / target) if target else source
        headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{target}#{anchor}"
