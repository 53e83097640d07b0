"""The tutorial and another page, followed as a reader would: every step in order, with real servers and commands."""

import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomkey import SessionConfig
from tests.reader import Reader, lasting
from tests.servers.redis import RedisServer

pytest.importorskip("fastapi")
pytest.importorskip("multipart")
pytest.importorskip("rich")

DOCS = Path(__file__).parent.parent / "docs"
REDIS = "redis://localhost:6379"  # as the page writes it


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    # Whoever follows the page has none of the plugins that these tests use.
    variables = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with RedisServer() as redis, Reader(tmp_path, instead={REDIS: redis.url}, **variables) as reader:
        yield reader


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("page", ["tutorial.md", "howto-deploy.md"])
def test_every_step_prints_what_the_page_says(reader: Reader, page: str) -> None:
    """Each file is saved, each command is run, and each prints what the page shows, but for moments and IDs."""
    for shown, printed in reader.follow((DOCS / page).read_text()):
        assert lasting(printed) == lasting(shown)


def test_every_variable_that_a_page_sets_is_an_option() -> None:
    """In files of a service manager, of containers and in commands too, where nothing else would notice."""
    options = {field.name for field in dataclasses.fields(SessionConfig)} | {"demo_data"}  # which the demo reads
    for page in DOCS.glob("*.md"):
        for name in re.findall(r"\bROOMKEY_([A-Z_]+)\b", page.read_text()):
            assert name.lower() in options, f"{page.name}: ROOMKEY_{name}"


def test_the_tutorial_has_ten_steps() -> None:
    """Each is a heading with its number."""
    numbers = re.findall(r"^## (\d+)\. ", (DOCS / "tutorial.md").read_text(), re.M)
    assert numbers == [str(number) for number in range(1, 11)]
