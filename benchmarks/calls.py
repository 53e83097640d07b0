"""What the interpreter does for one request: calls, encodings, hashes, bytecodes.

These counts are the same on any machine, and no profiler distorts them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.driver import App, drop, make_scope, receive

__all__ = ["Calls", "count_bytecodes", "count_calls"]

_HASHES = frozenset({"digest", "hexdigest", "hmac_digest"})  # each hash ends with a call of one of these
_OURS = str(Path(__file__).parent)


@dataclass
class Calls:
    """What was counted. What the handler and the driver call themselves is left out.

    Attributes:
        python: calls of Python functions; a coroutine that is resumed counts again.
        c: calls of functions that are written in C.
        encodings: calls of ormsgpack's `packb`.
        decodings: calls of ormsgpack's `unpackb`.
        hashes: digests that were made.
        tree: the name of each call, in order, with its depth.
    """

    python: int = 0
    c: int = 0
    encodings: int = 0
    decodings: int = 0
    hashes: int = 0
    tree: list[tuple[int, str]] = field(default_factory=list)

    def add_python(self, depth: int, frame: FrameType) -> None:
        self.python += 1
        code = frame.f_code
        self.tree.append((depth, f"{Path(code.co_filename).stem}: {code.co_qualname}"))

    def add_c(self, depth: int, function: Any) -> None:
        self.c += 1
        name = function.__name__
        self.encodings += name == "packb"
        self.decodings += name == "unpackb"
        self.hashes += name in _HASHES
        self.tree.append((depth, f"{getattr(function, '__qualname__', name)} (C)"))


async def count_calls(app: App, cookie: str | None) -> Calls:
    """Return what one request calls. Where it waits for a store, the event loop's own calls are among them."""
    found, depth = Calls(), 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal depth
        if event == "call":
            if not _is_ours(frame):
                found.add_python(depth, frame)
            depth += 1
        elif event == "return":
            depth -= 1
        elif event == "c_call" and not _is_ours(frame):
            found.add_c(depth, argument)

    scope = make_scope(cookie)
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        await app(scope, receive, drop)
    finally:
        sys.setprofile(before)
    return found


async def count_bytecodes(app: App, cookie: str | None) -> int:
    """Return how many instructions of the interpreter one request takes, the handler's and the driver's left out."""
    number = 0

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        if _is_ours(frame):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return step

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal number
        number += event == "opcode"
        return step

    scope = make_scope(cookie)
    before = sys.gettrace()
    sys.settrace(enter)
    try:
        await app(scope, receive, drop)
    finally:
        sys.settrace(before)
    return number


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_OURS)
