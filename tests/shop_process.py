"""The demo shop as a process of its own, for the tests that talk to it over HTTP or through a browser."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.loop_clock import HANGS
from tests.servers.parts import free_port

ROOT = Path(__file__).parent.parent
# On a busy machine a store that answers late is not down.
_PATIENT_SHOP = f"""
import os, pathlib, runpy, time
from roomkey import SessionConfig
SessionConfig.__init__.__wrapped__.__kwdefaults__["store_timeout"] = {HANGS}
ahead = pathlib.Path(os.environ["SHOP_AHEAD"])
SessionConfig.__init__.__wrapped__.__kwdefaults__["clock"] = lambda: time.time() + float(ahead.read_text())
runpy.run_module("roomkey", run_name="__main__", alter_sys=True)
"""


class ShopProcess:
    """The demo, run as a person runs it: one port and one data directory, from start to Ctrl-C."""

    def __init__(self, data: Path, port: int | None = None) -> None:
        self.data = data
        self.port = port or free_port()
        self.greeting = ""  # the three lines that it prints when it starts
        self._ahead = data.with_name(f"{data.name}-ahead")  # how many seconds its clock is ahead of ours
        self._ahead.write_text("0")
        self._process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def move_on(self, seconds: float) -> None:
        """Move the clock of its sessions forward."""
        later = self._ahead.with_suffix(".new")
        later.write_text(str(seconds))
        later.replace(self._ahead)

    def start(self) -> None:
        """Start it and wait until it answers. `port` is then the one it really took."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PATIENT_SHOP, "serve-demo", "--port", str(self.port)],
            cwd=ROOT,
            env={**os.environ, "ROOMKEY_DEMO_DATA": str(self.data), "SHOP_AHEAD": str(self._ahead)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A test run that a shell started in the background ignores SIGINT, and its children inherit that.
            preexec_fn=_heed_ctrl_c,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if address is None:
            self._process.kill()
            pytest.fail(f"The shop did not start:\n{line}{self._process.communicate()[0]}")
        self.port = int(address[1])
        self.greeting = line + self._process.stdout.readline() + self._process.stdout.readline()
        httpx.get(self.address, timeout=HANGS)  # the socket is open before the app is: this waits for the app

    def stop(self) -> str:
        """Ctrl-C. Returns what the shop printed after its address."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        try:
            output, _ = self._process.communicate(timeout=HANGS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            pytest.fail("The shop did not stop within two minutes of Ctrl-C.")
        code, self._process = self._process.returncode, None
        assert code == 0, output
        return output

    def close(self) -> None:
        if self._process is not None:
            self.stop()


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python sets its own handler only over the default one
