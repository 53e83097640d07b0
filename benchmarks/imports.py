"""What `import roomkey` takes, and what comes with it: `python -m benchmarks.imports`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

from benchmarks.report import Report, Target, progress, run, table

_TARGET = 40.0  # ms, at most
_SLOWEST = 12  # modules that the report names
_METHOD = """\
Fresh interpreters, {times} with `import roomkey` and {times} with `pass`, in turn. The figure is the difference of the
least of each. Byte code is there, as in an installed package. The list of modules is `sys.modules` after the import,
less what was there before. The times of single modules are the least of {traced} runs with `-X importtime`, each
without what it imports in turn. That option makes every import slower, so that they are shares rather than times."""

_LIST = "import json, sys; before = set(sys.modules); import roomkey; print(json.dumps([*set(sys.modules) - before]))"


def measure(quick: bool) -> Report:
    """Measure everything, and return the report."""
    times, traced = (8, 3) if quick else (60, 15)
    with tempfile.TemporaryDirectory() as folder:
        # Byte code is read wherever this runs, and nothing is left in the source tree.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = folder
        modules = json.loads(_python(environment, "-c", _LIST).stdout)
        milliseconds = _milliseconds(environment, times)
        slowest = _slowest(environment, traced)
    ours, standard, others = _sorted(modules)
    sections = [
        ("Time", f"`import roomkey` takes {milliseconds:.1f} ms. It should take less than {_TARGET:g} ms."),
        (
            "Modules that come with it",
            f"- Roomkey's own: {len(ours)}: {_named(ours)}\n"
            f"- other packages: {_named(others) or 'none'}\n"
            f"- the standard library: {len(standard)} packages and modules: {_named(standard)}",
        ),
        (
            "The slowest of them, without what they import in turn",
            table(["module", "ms"], [[name, f"{spent / 1000:.1f}"] for name, spent in slowest[:_SLOWEST]]),
        ),
    ]
    return Report(
        name="imports",
        title="The import",
        method=_METHOD.format(times=times, traced=traced),
        sections=sections,
        figures={"unit": "milliseconds", "import": milliseconds, "modules": sorted(modules)},
        targets=[
            Target("`import roomkey`, ms", milliseconds, _TARGET),
            Target("packages that come with it, beside ormsgpack", len({*others} - {"ormsgpack"}), 0),
        ],
        packages={"ormsgpack"},
    )


def _python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, env=environment)


def _milliseconds(environment: dict[str, str], times: int) -> float:
    def once(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        return (time.perf_counter() - began) * 1000

    with_it, without = [], []
    for number in range(times):
        progress(f"import: {number + 1} of {times}")
        with_it.append(once("import roomkey"))
        without.append(once("pass"))
    return min(with_it) - min(without)


def _slowest(environment: dict[str, str], times: int) -> list[tuple[str, int]]:
    """Return the modules and the µs that each takes itself, the slowest first."""
    found: dict[str, list[int]] = defaultdict(list)
    started = _traced(environment, "pass")
    for number in range(times):
        progress(f"import: traced {number + 1} of {times}")
        for name, spent in _traced(environment, "import roomkey").items():
            if name not in started:
                found[name].append(spent)
    return sorted(((name, min(spent)) for name, spent in found.items()), key=lambda pair: -pair[1])


def _traced(environment: dict[str, str], code: str) -> dict[str, int]:
    """Return the µs of each import, as `-X importtime` writes them: "import time: self | cumulative | name"."""
    found = {}
    for line in _python(environment, "-X", "importtime", "-c", code).stderr.splitlines():
        spent, _, name = (part.strip() for part in line.removeprefix("import time:").split("|"))
        if spent.isdigit():
            found[name] = int(spent)
    return found


def _named(modules: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in modules)


def _sorted(modules: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return our own modules, and the top-level names of the standard library and of other packages."""
    ours = sorted(name for name in modules if name.partition(".")[0] == "roomkey")
    others = {name.partition(".")[0] for name in modules} - {"roomkey"}
    standard = sorted(name for name in others if name in sys.stdlib_module_names or name.startswith("_sysconfigdata"))
    return ours, standard, sorted(others - {*standard})


if __name__ == "__main__":
    run("benchmarks.imports", measure, "What `import roomkey` takes, and what comes with it.")
