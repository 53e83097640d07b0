"""`roomkey doctor` as a command: in processes, against a running site, and what it prints."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pty
import re
import secrets
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from roomkey.cli.commands import roomkey
from roomkey.cli.doctor import judged
from tests.doctor_apps import WITHOUT_FAULT, asgi, found, framework, looked_at, write
from tests.loop_clock import HANGS
from tests.servers.parts import free_port, make_certificate
from tests.servers.redis import RedisServer

SOURCES = Path(__file__).parents[1] / "src"


def _doctor(folder: Path, name: str, *args: str, **environment: str) -> tuple[int, Any, str]:
    """Run the command in a process of its own. Returns exit code, output (JSON is read) and error output."""
    done = subprocess.run(
        [sys.executable, "-m", "roomkey", "doctor", name, *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCES), **environment},
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )
    try:
        return done.returncode, json.loads(done.stdout), done.stderr
    except ValueError:
        return done.returncode, done.stdout, done.stderr


# --- processes --------------------------------------------------------------------------------------------------------

_AT_START = {
    "at start": WITHOUT_FAULT.replace("secret_key=KEY", "secret_key=__import__('secrets').token_hex(32)"),
    "by process": WITHOUT_FAULT.replace("secret_key=KEY", "secret_key=KEY + str(__import__('os').getpid())"),
}


@pytest.mark.parametrize("options", _AT_START.values(), ids=_AT_START)
def test_a_key_of_each_process(options: str, tmp_path: Path) -> None:
    """A key is found that each process makes for itself."""
    code, report, _ = _doctor(tmp_path, write(tmp_path, asgi(options)))
    assert code == 1 and [each["name"] for each in report["findings"]] == ["key-per-process"]


@pytest.mark.parametrize("name", ["fastapi", "flask", "ravyn"])
def test_one_key_for_all(name: str, tmp_path: Path) -> None:
    """Where all processes have one key, nothing is found, and the exit code is 0."""
    app = write(tmp_path, framework(name))
    assert _doctor(tmp_path, app) == (0, {"app": app, "findings": [], "not_checked": [], "ignored": []}, "")


def test_a_manager_that_is_made_late(tmp_path: Path) -> None:
    """A manager that is made by a request, and not in every process, is no key of a process."""
    late = """
from starlette.applications import Starlette
MOUNTED = Starlette()
MOUNTED.add_middleware(SessionMiddleware, **{**OPTIONS, "secret_key": KEY[::-1], "session_cookie": "__Host-other"})
app.mount("/late", MOUNTED)
"""
    assert _doctor(tmp_path, write(tmp_path, asgi(more=late)), "--path", "/", "--path", "/late/")[:1] == (0,)


def test_an_app_that_only_one_process_can_have(tmp_path: Path) -> None:
    """Where the app cannot be imported a second time, the report says that the keys were not compared."""
    once = "import sys\nif 'roomkey.cli.fresh' in sys.orig_argv:\n    1 / 0\n"
    code, report, _ = _doctor(tmp_path, write(tmp_path, once + asgi()))
    assert code == 0 and [gap["name"] for gap in report["not_checked"]] == ["key-per-process"]


def test_what_the_app_prints(tmp_path: Path) -> None:
    """What the app prints while it is imported, started and asked is not in the JSON."""
    prints = "print('imported')\n" + asgi(more="@app.get('/p')\ndef p():\n    print('asked')\n")
    code, report, said = _doctor(tmp_path, write(tmp_path, prints), "--path", "/p")
    assert code == 0 and report["findings"] == [] and "imported" in said and "asked" in said


# --- what it prints ---------------------------------------------------------------------------------------------------


def test_secrets_are_never_printed(tmp_path: Path) -> None:
    """No secret key, password, session ID, cookie or content of a session is printed, whatever is found."""
    sets = """
from fastapi import Response
@app.get("/secret")
def secret(request: Request, response: Response):
    request.session["token"] = "Xcontent1"
    response.set_cookie("theirs", "Xcookie1" * 500)
"""
    with RedisServer(password="Xpassword1") as server:
        name = write(
            tmp_path, asgi("secret_key='Xkey1', store=STORE", more=sets, middleware="ADD(app)"), store=server.url
        )
        for args in ((), ("--json",)):
            said = _in_terminal(tmp_path, name, "--path", "/secret", *args)
            assert "key-weak" in said and "cookie-large" in said and "store-forgets" in said
            assert "Xkey1" not in said and "Xpassword1" not in said
            assert "Xcontent1" not in said and "Xcookie1" not in said and "session=" not in said


def _in_terminal(folder: Path, name: str, *args: str) -> str:
    """Run the command in a terminal. Returns all that is seen there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "COLUMNS": "200", "TERM": "dumb"}
    command = [sys.executable, "-m", "roomkey", "doctor", name, *args]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # the end, as Linux tells it
            while piece := os.read(ours, 10_000):
                said += piece
        process.wait(HANGS)
    os.close(ours)
    return said.decode()


def test_a_table_in_a_terminal(tmp_path: Path) -> None:
    """A terminal gets a table: what is wrong, what to do, and where to read about it."""
    said = _in_terminal(tmp_path, write(tmp_path, asgi("secret_key=KEY, https_only=True, store=STORE")))
    assert "cookie-no-prefix" in said and '"__Host-session"' in said and "docs/howto-operate.md" in said
    assert "1 weakness found." in said and "Traceback" not in said
    assert "No weakness found." in _in_terminal(tmp_path, write(tmp_path, asgi()))


def test_the_example_in_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app of the page gets the report that the page shows."""
    page = (SOURCES.parent / "docs" / "howto-doctor.md").read_text()
    code, shown = page.partition("```python\n")[2].split("```")[0], page.partition("roomkey doctor shop:app\nCheck")[2]
    (tmp_path / "shop.py").write_text(code)
    monkeypatch.setenv("SECRET_KEY", secrets.token_urlsafe(32))
    said = _in_terminal(tmp_path, "shop:app")
    assert _words(said.partition("Check")[2]) == _words(shown.partition("```")[0])


def _words(text: str) -> str:
    """Return the words, without colours and spaces: where lines end depends on the terminal."""
    return "".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).split())


def test_ignore(tmp_path: Path) -> None:
    """A check that is ignored finds nothing, and the report names it. A name that is none is refused."""
    name = write(tmp_path, asgi("secret_key=KEY, https_only=True, store=STORE"))
    code, report, _ = _doctor(tmp_path, name, "--ignore", "cookie-no-prefix")
    assert code == 0 and report["findings"] == [] and report["ignored"] == ["cookie-no-prefix"]
    result = CliRunner().invoke(roomkey, ["doctor", name, "--ignore", "cookie"])
    assert result.exit_code == 2 and "cookie-no-prefix" in result.stderr


@pytest.mark.parametrize(
    ("code", "args", "says"),
    [
        ("1 / 0", (), "ZeroDivisionError"),
        ("from starlette.applications import Starlette\napp = Starlette()", (), "no Roomkey sessions"),
        (asgi("secret_key=KEY, max_agee=5"), (), "max_agee"),
        (asgi(more="raise SystemExit('Xgone')"), (), "SystemExit"),
        (asgi(), ("--path", "shop"), "does not begin with /"),
        (asgi(), ("--url", "shop.example"), "https://shop.example"),
        (asgi(), ("--url", "http://127.0.0.1:1"), "does not answer"),
    ],
)
def test_an_app_that_cannot_be_looked_at(code: str, args: tuple[str, ...], says: str, tmp_path: Path) -> None:
    """It is exit code 2, with one line that says why."""
    exit_code, output, error = _doctor(tmp_path, write(tmp_path, code), *args)
    assert (exit_code, output) == (2, "") and says in error and "Traceback" not in error


_LIFESPAN = """
import contextlib
@contextlib.asynccontextmanager
async def lifespan(app):
    {}
    yield {{"of_start": "there"}}
app.router.lifespan_context = lifespan

@app.get("/state")
def state(request: Request):
    assert request.state.of_start == "there"
"""


def test_the_app_runs_while_it_is_asked(tmp_path: Path) -> None:
    """Requests find what the app's start has left. An app that does not start cannot be looked at."""
    assert found(looked_at(tmp_path, asgi(more=_LIFESPAN.format("pass")), "/state")) == []
    exit_code, _, error = _doctor(tmp_path, write(tmp_path, asgi(more=_LIFESPAN.format("1 / 0"))))
    assert exit_code == 2 and "does not start" in error


# --- the running site -------------------------------------------------------------------------------------------------


class _Proxy(BaseHTTPRequestHandler):
    """Passes requests on to the app's server: with the headers that `self.server.passes` makes of them."""

    def _pass(self) -> None:
        server: Any = self.server
        if server.passes is None:  # a wall, which lets nobody pass
            self.send_error(403)
            return
        connection = http.client.HTTPConnection("127.0.0.1", server.behind)
        headers = server.passes({name.lower(): value for name, value in self.headers.items()})
        connection.request(self.command, self.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _pass

    def log_message(self, *_: Any) -> None:
        pass


class _Site:
    """An app on a server of its own, behind a proxy.

    Args:
        folder: where the app is.
        name: of the app.
        tls: whether the proxy speaks HTTPS, with the certificate `certificate`.
    """

    def __init__(self, folder: Path, name: str, *, tls: bool = False) -> None:
        is_flask = "Flask(" in (folder / f"{name.partition(':')[0]}.py").read_text()
        behind = free_port()
        command = ["-m", "uvicorn", name, "--port", str(behind), "--interface", "wsgi" if is_flask else "auto"]
        self._command, self._folder = [sys.executable, *command], folder
        self.proxy: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
        self.certificate = folder / "certificate.pem"
        if tls:
            make_certificate(self.certificate, folder / "key.pem")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, folder / "key.pem")
            self.proxy.socket = context.wrap_socket(self.proxy.socket, server_side=True)
        self.proxy.behind = behind
        self.url = f"{'https' if tls else 'http'}://localhost:{self.proxy.server_port}"

    def __enter__(self) -> _Site:
        environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
        self._server = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._server.stdout is not None
        said = ""
        while "running on" not in said:
            line = self._server.stdout.readline()
            assert line, said
            said += line
        threading.Thread(target=self.proxy.serve_forever).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.proxy.shutdown()
        self.proxy.server_close()
        self._server.terminate()
        self._server.communicate(timeout=HANGS)


def _all(headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "x-forwarded-proto": "https"}


def _without_host(headers: dict[str, str]) -> dict[str, str]:
    return {**_all(headers), "host": "backend:8000"}


def _without_scheme(headers: dict[str, str]) -> dict[str, str]:
    return headers


_ROUTE = """
@app.get("/orders")
def orders():
    return ""
"""


@pytest.mark.parametrize(
    ("passes", "expected"),
    [(_all, []), (_without_host, ["proxy-drops-host"]), (_without_scheme, ["proxy-drops-scheme"])],
)
def test_a_proxy(passes: Any, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy is found that drops the `Host`, or does not pass on that it speaks HTTPS."""
    with _Site(tmp_path, write(tmp_path, asgi(more=_ROUTE)), tls=True) as site:
        site.proxy.passes = passes
        monkeypatch.setenv("SSL_CERT_FILE", str(site.certificate))
        looked = looked_at(tmp_path, asgi(more=_ROUTE), url=site.url)
    assert found(looked) == expected and judged(looked)[1] == []


def test_a_proxy_that_only_the_csrf_check_shows(tmp_path: Path) -> None:
    """Where nothing redirects, the check of `Origin` and `Host` shows it. Plain HTTP needs no `Secure`."""
    quiet = asgi("secret_key=KEY, store=STORE").replace("FastAPI()", "FastAPI(redirect_slashes=False)")
    with _Site(tmp_path, write(tmp_path, quiet)) as site:
        site.proxy.passes = _without_host
        assert found(looked_at(tmp_path, quiet, url=site.url)) == ["proxy-drops-host"]
        site.proxy.passes = _all
        looked = looked_at(tmp_path, quiet, url=site.url)
    assert judged(looked) == ([], [])


def test_a_site_that_sends_its_cookie_without_secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cookie of the running site counts: it may have other settings, or a proxy that changes them."""
    there = asgi("secret_key=KEY, https_only=False, store=STORE")
    here = asgi("secret_key=KEY, store=STORE, https_only=True")
    for code, expected in ((there, ["cookie-not-secure", "cookie-no-prefix"]), (here, ["cookie-no-prefix"])):
        with _Site(tmp_path, write(tmp_path, code), tls=True) as site:
            site.proxy.passes = _all
            monkeypatch.setenv("SSL_CERT_FILE", str(site.certificate))
            assert found(looked_at(tmp_path, here, url=site.url))[:2] == expected


def test_a_wall_before_the_site(tmp_path: Path) -> None:
    """A site that refuses every request of ours says nothing about its proxies."""
    code = asgi("secret_key=KEY, store=STORE")
    with _Site(tmp_path, write(tmp_path, code)) as site:
        site.proxy.passes = None
        findings, gaps = judged(looked_at(tmp_path, code, url=site.url))
    assert findings == [] and [gap["name"] for gap in gaps] == ["proxy-drops-host"]
    assert "200 here and 403 there" in gaps[0]["why"]


def test_a_site_that_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no answer shows what the app sees, the report says so."""
    quiet = asgi(middleware="ADD(app)").replace("FastAPI()", "FastAPI(redirect_slashes=False)")
    with _Site(tmp_path, write(tmp_path, quiet), tls=True) as site:
        site.proxy.passes = _without_host
        monkeypatch.setenv("SSL_CERT_FILE", str(site.certificate))
        findings, gaps = judged(looked_at(tmp_path, quiet, url=site.url))
    assert [each["name"] for each in findings] == ["csrf-off"]
    assert [each["name"] for each in gaps] == ["proxy-drops-host", "proxy-drops-scheme"]


def test_flask_behind_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Flask app's redirects show the same."""
    code = framework("flask") + "\n@app.get('/orders/')\ndef orders():\n    return ''\n"
    with _Site(tmp_path, write(tmp_path, code), tls=True) as site:
        monkeypatch.setenv("SSL_CERT_FILE", str(site.certificate))
        site.proxy.passes = _without_host
        assert "proxy-drops-host" in found(looked_at(tmp_path, code, url=site.url))
