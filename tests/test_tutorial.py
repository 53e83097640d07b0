"""The tutorial, followed as a reader would: every step in order, with a real server and real commands."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reader import Reader, lasting
from tests.servers.redis import RedisServer

pytest.importorskip("fastapi")
pytest.importorskip("multipart")
pytest.importorskip("rich")

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
REDIS = "redis://localhost:6379"  # as the page writes it


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with RedisServer() as redis, Reader(tmp_path, instead={REDIS: redis.url}) as reader:
        yield reader


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_every_step_of_the_tutorial_prints_what_it_says(reader: Reader) -> None:
    """Each file is saved, each command is run, and each prints what the page shows, but for moments and IDs."""
    for page, real in reader.follow(PAGE.read_text()):
        assert lasting(real) == lasting(page)


def test_the_tutorial_has_ten_steps() -> None:
    """Each is a heading with its number."""
    assert re.findall(r"^## (\d+)\. ", PAGE.read_text(), re.M) == [str(number) for number in range(1, 11)]
