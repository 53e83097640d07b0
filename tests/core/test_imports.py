"""Imports point one way: each part of Roomkey knows the parts below it, and none above."""

import ast
import graphlib

from tests.core.imports import BY_NAME, FILES, GRAPH, TREES

# From the bottom to the top. A module may import what is in its own part, and everything in the lines above it.
LAYERS = [
    ["errors", "clock", "called_elsewhere"],
    ["options"],
    ["environment", "paths"],
    ["event_loop"],
    ["events"],
    ["wire"],
    ["stores"],
    ["legacy"],  # the readers of other libraries' sessions: options of a configuration, which checks them
    ["option_types"],
    ["config"],
    ["core"],
    ["shapes"],
    ["legacy.move_in"],
    ["legacy.arrival", "in_cookie"],
    ["legacy.beside"],
    ["request", "outgoing", "lifespan", "arguments", "routes"],
    ["incoming"],
    ["sync"],  # the blocking calls of the session manager
    ["manager"],
    ["web"],
    ["pallets", "on_use"],  # what Flask and Quart have in common
    ["aiohttp", "django", "fastapi", "flask", "lilya", "litestar", "quart", "starlette"],
    ["ravyn"],
    [""],  # `import roomkey`
    # What stands beside: nothing else imports it.
    ["csrf", "otel", "prometheus", "testing"],
    ["pages"],  # whose forms carry a token of `csrf`
    ["demo"],
    ["cli"],  # which serves the demo
    ["__main__", "pytest_plugin"],
]


def part_of(name):
    """Return the part that a module belongs to, and the number of its layer."""
    fits = [
        (len(prefix), part, number)
        for number, layer in enumerate(LAYERS)
        for part in layer
        for prefix in part.split("|")
        if name == prefix or (prefix and name.startswith(prefix + "."))
    ]
    assert fits, f"roomkey.{name} is in no layer: say in LAYERS what it may know"
    return max(fits)[1:]


def test_imports_point_one_way():
    """Nothing imports a part that is above its own, be it for a type or within a function."""
    wrong = []
    for name, imported in GRAPH.items():
        part, layer = part_of(name)
        for other in imported:
            other_part, other_layer = part_of(other)
            if part != other_part and layer <= other_layer:
                wrong.append(f"{name} imports {other}")
    assert not sorted(wrong)


def test_no_module_imports_one_that_imports_it():
    """There is no circle, within a part either: each module can be read after those that it imports."""
    graphlib.TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle


def test_every_layer_is_there():
    """No part stands for something that has gone."""
    assert {part for layer in LAYERS for part in layer} == {part_of(name)[0] for name in FILES}


def test_modules_are_imported_by_their_names():
    """One module puts a name together, and it opens stores with it: the graph shows everything else."""
    users = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", None)) in ("import_module", "__import__")
    }
    assert users == {*BY_NAME, "cli.finding"}  # which imports people's apps
    assert all(f"stores.{name}" in FILES for name in ("redis", "postgres", "sqlalchemy"))
