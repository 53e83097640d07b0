"""What Roomkey costs beside its peers, one part after the other: `python -m benchmarks [PART ...]`.

Each part is a program of its own too. What takes long is not among them: `engines`, `soak`, `drivers`, `profile`.
"""

from __future__ import annotations

import argparse

from benchmarks import hot, imports, near, on_django, on_flask, over_http, over_redis, sessions
from benchmarks.report import add_options, produce

_PARTS = {
    "sessions": sessions.measure,
    "redis": over_redis.measure,
    "http": over_http.measure,
    "hot": hot.measure,
    "near": near.measure,
    "imports": imports.measure,
    "flask": on_flask.measure,
    "django": on_django.measure,
}


def main() -> None:
    """Measure the parts that were named, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What Roomkey costs, beside its peers.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default all: {', '.join(_PARTS)}")
    add_options(parser)
    options = parser.parse_args()
    unknown = [name for name in options.parts if name not in _PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(_PARTS)}")
    produce([_PARTS[name] for name in options.parts or _PARTS], options.quick, options.json)


if __name__ == "__main__":
    main()
