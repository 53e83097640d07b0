"""Installs the wheel with each extra alone, and uses what the extra is for: `make extras`.

The last environment is that of somebody who writes a store: the wheel, pytest, and nothing else. The store and its test
are those of the docs.

Each extra has an empty environment of its own, so a package that it forgets to ask for is missing there. It is done on
every Python that is supported and can be had. It needs nothing but Python and uv.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

__all__ = ["USES", "WITHOUT"]

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
CONTRACT = "contract"  # not an extra: a store of another project's, held to the suite
_PAGE = ROOT / "docs" / "write-your-own-store.md"
_CONFIG = "from roomkey import SessionConfig, SessionManager; "
_MANAGER = _CONFIG + "SessionManager(SessionConfig(secret_key='k' * 43, {}))"

# What runs in an environment that has this extra alone. Nothing connects to a server.
USES = {
    "ravyn": "import ravyn; from roomkey.ravyn import SessionConfig; "
    "ravyn.Ravyn(session_config=SessionConfig(secret_key='k' * 43))",
    "lilya": "import roomkey.lilya",
    "fastapi": "import roomkey.fastapi",
    "flask": "import flask, roomkey.flask; app = flask.Flask('app'); "
    "app.secret_key = 'k' * 43; roomkey.flask.Roomkey(app)",
    "quart": "import quart, roomkey.quart; app = quart.Quart('app'); "
    "app.secret_key = 'k' * 43; roomkey.quart.Roomkey(app)",
    "django": "from django.conf import settings; "
    "settings.configure(SECRET_KEY='k' * 43, SESSION_ENGINE='roomkey.django', INSTALLED_APPS=['roomkey.django']); "
    "import django; django.setup(); from roomkey.django import SessionStore; SessionStore()",
    "aiohttp": "import roomkey.aiohttp",
    "starlette": "from roomkey import SessionManager; from roomkey.starlette import install; "
    "install(SessionManager(secret_key='k' * 43, store='memory://')); "
    "from starlette.middleware.sessions import SessionMiddleware",
    "litestar": "import roomkey.litestar",
    "redis": _MANAGER.format("store='redis://localhost/0'"),
    "postgres": _MANAGER.format("store='postgresql://localhost/app'"),
    "sqlalchemy": "import roomkey.stores.sqlalchemy",
    "mysql": _MANAGER.format("store='sqlalchemy+mysql+asyncmy://localhost/app'"),
    "crypto": _MANAGER.format("seal=True") + "; " + _MANAGER.format("store='cookie://'"),
    "cli": "import subprocess, sys, sysconfig; "
    "subprocess.run([sysconfig.get_path('scripts') + '/roomkey', 'keygen'], check=True, stdout=subprocess.DEVNULL)",
    "demo": "import aiosqlite, pathlib, roomkey.cli.commands, roomkey.demo.serve as demo; "
    "demo.create_app(pathlib.Path(), key='k' * 43, store='memory://')",
    "pages": "from roomkey import SessionManager; from roomkey.pages import DevicesPage, OperatorsPage; "
    "manager = SessionManager(secret_key='k' * 43, store='memory://'); "
    "DevicesPage(manager); OperatorsPage(manager, allow=lambda session: True)",
    "devices": "from ua_parser import parse; from roomkey.core.agents import agent_from; "
    "text = 'Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0'; "
    "assert agent_from(text)[:2] == ('Firefox', 'Ubuntu'), agent_from(text)",
    "otel": "from roomkey.otel import session_telemetry; session_telemetry()",
    "prometheus": "from roomkey.prometheus import session_metrics; session_metrics()",
}
# What runs in an environment without any extra.
WITHOUT = "import roomkey.csrf, roomkey.events, roomkey.legacy, roomkey.stores, roomkey.testing; " + _MANAGER.format(
    "store='memory://'"
)


def extras() -> list[str]:
    """Return the names of the extras that the project has."""
    return list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def run(command: list[str], **options: str) -> subprocess.CompletedProcess[str]:
    """Run a command outside of the repository, which Python would import from otherwise."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=options.get("cwd"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def fault(uv: str, python: str, wheel: Path, extra: str) -> str:
    """Install the wheel with one extra, or with none, and use it. Returns what went wrong; empty: nothing."""
    with tempfile.TemporaryDirectory(prefix="roomkey-") as folder:
        made = f"{folder}/venv"
        asked = f"roomkey[{extra}] @ {wheel.as_uri()}" if extra else f"roomkey @ {wheel.as_uri()}"
        use = USES[extra] if extra else WITHOUT
        for command in (
            [uv, "venv", "--quiet", "--python", python, made],
            [uv, "pip", "install", "--quiet", "--python", f"{made}/bin/python", asked],
            [f"{made}/bin/python", "-c", use],
        ):
            done = run(command, cwd=folder)
            if done.returncode:
                return f"{' '.join(command[-3:])}\n{done.stdout}"
    return ""


def fault_of_contract(uv: str, python: str, wheel: Path) -> str:
    """Run the suite in another project, on a store that passes and on one that does not. Returns what went wrong."""
    files = dict(re.findall(r"[Ss]ave[^`]* as `(\w+\.py)`.*?^```python\n(.*?)^```", _PAGE.read_text(), re.M | re.S))
    with tempfile.TemporaryDirectory(prefix="roomkey-") as folder:
        for name in ("dict_store.py", "test_dict_store.py"):
            Path(folder, name).write_text(files[name])
        python_there = f"{folder}/venv/bin/python"
        asked = [f"roomkey @ {wheel.as_uri()}", "pytest"]
        suite = [python_there, "-m", "pytest", "-q", "test_dict_store.py"]
        for command in (
            [uv, "venv", "--quiet", "--python", python, f"{folder}/venv"],
            [uv, "pip", "install", "--quiet", "--python", python_there, *asked],
            suite,
        ):
            done = run(command, cwd=folder)
            if done.returncode:
                return f"{' '.join(command[-3:])}\n{done.stdout}"
        if not re.search(r"^\d+ passed", done.stdout, re.M):
            return f"no test was run:\n{done.stdout}"
        broken = files["dict_store.py"].replace("record.version != version or ", "")
        assert broken != files["dict_store.py"], "the page's store is another one by now"
        Path(folder, "dict_store.py").write_text(broken)
        if not run(suite, cwd=folder).returncode:
            return "a store without compare-and-swap passes"
    return ""


def main() -> None:
    """Go through the Pythons that are here, and the extras that were named, or all of them."""
    parser = argparse.ArgumentParser(description="The wheel with each extra alone, in an empty environment.")
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"default: all, none at all, and {CONTRACT}")
    parser.add_argument("--uv", default="uv", help="the program uv")
    parser.add_argument("--wheel", type=Path, required=True, help="the file")
    parser.add_argument("--pythons", default=" ".join(PYTHONS), help="versions or paths, with spaces between them")
    options = parser.parse_args()
    uv = os.path.abspath(shutil.which(options.uv) or options.uv)  # commands run in other folders
    if set(USES) != set(extras()):
        parser.error(f"USES in {Path(__file__).name} and the extras of the project differ: {set(USES) ^ set(extras())}")
    failed, here = [], []
    for python in options.pythons.split():
        if run([uv, "python", "find", python]).returncode:
            print(f"{python}: not here", flush=True)
            continue
        here.append(python)
        for extra in options.extras or ["", *USES, CONTRACT]:
            wheel = options.wheel.resolve()
            wrong = fault_of_contract(uv, python, wheel) if extra == CONTRACT else fault(uv, python, wheel, extra)
            print(f"{python} {extra or 'without extras'}: {'FAILED' if wrong else 'ok'}", flush=True)
            if wrong:
                failed.append(f"{python} {extra}\n{wrong}")
    if failed or not here:
        sys.exit("\n".join(["", *failed]) or "no Python was found")


if __name__ == "__main__":
    main()
