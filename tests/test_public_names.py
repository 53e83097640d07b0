"""Every public name is in the typing tests, which mypy reads."""

import ast
from pathlib import Path

import pytest

import roomkey

SOURCE = Path(roomkey.__file__).parent
TYPING = Path(__file__).parent / "typing"
# The public surface of docs/design.md, and the types of `manager.sync`.
MODULES = [
    "roomkey",
    *(f"roomkey.{name}" for name in ("aiohttp", "csrf", "django", "events", "fastapi", "flask", "legacy", "lilya")),
    *(f"roomkey.{name}" for name in ("litestar", "otel", "pages", "prometheus", "pytest_plugin", "quart", "ravyn")),
    *(f"roomkey.{name}" for name in ("starlette", "stores", "sync", "testing")),
    *(f"roomkey.stores.{name}" for name in ("base", "cookie", "memory", "migrating", "postgres", "redis")),
    *(f"roomkey.stores.{name}" for name in ("sqlalchemy", "sqlite")),
]


def public_names(module):
    """Return what a module's `__all__` has, without importing it."""
    place = SOURCE.joinpath(*module.split(".")[1:])
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{module} has no __all__")


def names_in_the_typing_tests():
    """Return each module with the names that a typing test imports from it and uses."""
    found = {}
    for path in TYPING.glob("*.py"):
        tree = ast.parse(path.read_text())
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                names = {each.name for each in node.names if (each.asname or each.name) in used}
                found.setdefault(node.module, set()).update(names)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_typing_tests(module):
    """Somebody who adds a name says there what a type checker is to see of it."""
    assert sorted(public_names(module) - names_in_the_typing_tests().get(module, set())) == []
