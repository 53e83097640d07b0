"""Load from wrk (https://github.com/wg/wrk), a program of its own: `apt-get install wrk`."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from benchmarks.driver import COOKIE
from benchmarks.report import NotInstalled
from benchmarks.serving import request_bytes

__all__ = ["Loaded", "load", "load_in_turn", "require", "version"]

_DONE = """\
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("FOUND %d %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""
_IN_TURN = """\
local requests, at = {}, 0
function init(args)
  for line in io.lines(args[1]) do
    requests[#requests + 1] = (line:gsub("|", "\\r\\n"))
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
"""


@dataclass(frozen=True)
class Loaded:
    """What wrk found.

    Attributes:
        requests: how many were answered.
        duration: in microseconds.
        p50: the median latency, in microseconds.
        p99: the latency that 99 in 100 requests stay under, in microseconds.
        errors: answers other than 2xx and 3xx, and sockets that failed.
    """

    requests: int
    duration: int
    p50: int
    p99: int
    errors: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.duration * 1e6


def require() -> None:
    """Raise NotInstalled where wrk is missing."""
    if shutil.which("wrk") is None:
        raise NotInstalled("Left out: the load over HTTP, which needs the load generator wrk (apt-get install wrk).")


async def load(port: int, page: str, cookie: str, connections: int, seconds: int) -> Loaded:
    """Let wrk ask for a page, always with the same cookie. Its requests have two headers: the host and the cookie.

    Args:
        port: of the app, on this machine.
        page: without its slash.
        cookie: the session's.
        connections: that are kept alive; each has one request in flight.
        seconds: how long.

    Raises:
        RuntimeError: wrk failed.
    """
    return await _run(
        _DONE, connections, seconds, ["-H", f"Cookie: {COOKIE}={cookie}"], f"http://127.0.0.1:{port}/{page}"
    )


async def load_in_turn(port: int, page: str, cookies: list[str], connections: int, seconds: int) -> Loaded:
    """Do as `load` does, with one cookie after the other. The requests have five headers."""
    with tempfile.NamedTemporaryFile("w", encoding="latin-1") as file:
        for cookie in cookies:
            file.write(request_bytes(f"/{page}", cookie).decode("latin-1").replace("\r\n", "|") + "\n")
        file.flush()
        return await _run(_IN_TURN + _DONE, connections, seconds, [], f"http://127.0.0.1:{port}/", "--", file.name)


async def _run(lua: str, connections: int, seconds: int, options: list[str], *arguments: str) -> Loaded:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(lua)
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", script.name]
        process = await asyncio.create_subprocess_exec(
            *command, *options, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said = (await process.communicate())[0].decode(errors="replace")
    found = re.search(r"^FOUND (\d+) (\d+) (\d+) (\d+) (\d+)$", said, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk did not end well: {said}")
    return Loaded(*(int(number) for number in found.groups()))


def version() -> str:
    """Return wrk's version."""
    said = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout.split("\n")[0]
    found = re.match(r"wrk (?:debian/)?(\S+)", said)
    return found[1] if found else said
