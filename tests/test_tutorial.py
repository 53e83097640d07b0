"""The tutorial, followed as a reader would: every step in order, with a real server and real commands."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reader import Reader, Step, lasting, steps_of
from tests.servers.redis import RedisServer

pytest.importorskip("fastapi")
pytest.importorskip("multipart")
pytest.importorskip("rich")

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
REDIS = "redis://localhost:6379"  # as the page writes it
NOT_HERE = re.compile(r"make wheel|mkdir|python -m venv|\. \S+/activate|pip install|cd ")  # what the tests have done


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with RedisServer() as redis, Reader(tmp_path, instead={REDIS: redis.url}) as reader:
        yield reader


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_every_step_of_the_tutorial_prints_what_it_says(reader: Reader) -> None:
    """Each file is saved, each command is run, and each prints what the page shows, but for moments and IDs."""
    steps = steps_of(PAGE.read_text())
    shown = [step.text for step in steps if step.kind == "console"]
    printed = [answer for step in steps if (answer := _follow(reader, step)) is not None]
    for page, real in zip(shown, printed, strict=True):
        assert lasting(real) == lasting(page)


def _follow(reader: Reader, step: Step) -> str | None:
    """Do what a block says. Returns what a console then shows."""
    if step.kind == "console":
        return reader.type(step.text)
    if step.kind == "python":
        assert step.name is not None, step.text
        reader.save(step.name, step.text)
    elif step.kind == "sh":
        for line in step.text.splitlines():
            _run(reader, line)
    else:
        assert step.kind in {"nginx", "ini"}, step.kind
    return None


def _run(reader: Reader, line: str) -> None:
    export = re.fullmatch(r"export (\w+)=(.+)", line)
    if export is not None:
        reader.set_variable(export[1], export[2])
    elif line.startswith("uvicorn "):
        reader.start_server(line)
    else:
        assert NOT_HERE.match(line), line


def test_the_tutorial_has_ten_steps() -> None:
    """Each is a heading with its number."""
    assert re.findall(r"^## (\d+)\. ", PAGE.read_text(), re.M) == [str(number) for number in range(1, 11)]
