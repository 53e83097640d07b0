"""Which modules of Roomkey there are, and which of them each one imports."""

import ast
import pathlib

import roomkey

ROOT = pathlib.Path(roomkey.__file__).parent

# Modules that are imported by a name that is put together: `roomkey.stores.urls` opens the store of a URL.
BY_NAME = {"stores.urls": {"stores.redis", "stores.postgres", "stores.sqlalchemy"}}


def modules():
    """Return the file of each module, by its name without `roomkey.`."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


FILES = modules()
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imports_of(name):
    """Return which of our modules a module imports: for types and within functions too."""
    found = set(BY_NAME.get(name, ()))
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            names = [f"{node.module}.{each.name}" for each in node.names]
            names = [each if ours(each) in FILES else node.module for each in names]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        else:
            continue
        found.update(ours(each) for each in names if each.partition(".")[0] == "roomkey")
    return found - {name}


def ours(name):
    return name.removeprefix("roomkey").removeprefix(".")


GRAPH = {name: imports_of(name) for name in FILES}
