"""What a page has to show: the rule itself, on small pages. `tests/test_docs.py` holds the pages to it."""

import pytest

from tests.reader import lasting, shows_nothing

CODE = "```python\nprint(1)\n```\n"
SHOWN = "```text\n1\n```\n"
FILE = f"Save this as `shop.py`.\n\n{CODE}"
START = "```console\n$ uvicorn shop:app\n```\n"
ASK = "```console\n$ curl localhost:8000\nhello\n```\n"


@pytest.mark.parametrize(
    ("page", "silent"),
    [
        (f"{CODE}\n{SHOWN}", 0),
        (f"{CODE}\nIt prints:\n\n{SHOWN}", 0),
        (CODE, 1),
        (f"{CODE}\n{CODE}\n{SHOWN}", 1),
        (f"{CODE}\nOne paragraph.\n\nAnother one.\n\n{SHOWN}", 1),
        (f"{CODE}\n## Another part\n\n{SHOWN}", 1),
        (f"{FILE}\n{START}\n{ASK}", 0),
        (f"{START}\n{ASK}\n{FILE}\n{ASK}", 0),
        (FILE, 1),
        (f"{FILE}\n{START}", 1),
        (f"{FILE}\n{START.replace('shop', 'other')}\n{ASK}", 1),
        (f"{START}\n{ASK}\n{FILE}", 1),
        (f"{CODE}\n{START}\n{ASK}", 1),
        (f"{FILE}\n```console\n$ python shop.py\n1\n```\n", 0),
        (f"{FILE}\n```python\nimport shop\n```\n\n{SHOWN}", 0),
        (f"{FILE}\n```python\nimport shop\n```\n", 2),
        (f"{FILE.replace('shop', 'test_shop')}\n```console\n$ python -m pytest -q\n1 passed in 0.1s\n```\n", 0),
    ],
)
def test_blocks_that_show_nothing(page: str, silent: int) -> None:
    """A block shows what comes of it by a text block right below it, or by a later console that uses its file."""
    assert len(shows_nothing(page)) == silent


def test_what_lasts() -> None:
    """Moments, cards, handles, versions and the order of headers do not count. All else does."""
    first = f"Server: a/1\nDate: Mon\nset-cookie: session={'a' * 80}; Path=/\n\n{'0' * 64} in 0.1s\n"
    other = f"date: Tue\nserver: a/2\nset-cookie: session={'b' * 80}; Path=/\n\n{'1' * 64} in 2.5s\n"
    assert lasting(first) == lasting(other)
    assert lasting(first) != lasting(other.replace("Path=/", "Path=/a"))
    assert lasting("1 passed") != lasting("2 passed")


def test_progress_does_not_count() -> None:
    """How many tests the contract of stores has is no promise of a page. That none fails is one."""
    shown = f"{'.' * 72} [ 62%]\n.....ss{' ' * 65} [100%]\n94 passed, 22 skipped in 21.36s\n"
    grown = f"{'.' * 72} [ 50%]\n{'s' * 72} [100%]\n110 passed, 34 skipped in 9.01s\n"
    assert lasting(shown) == lasting(grown)
    assert lasting(shown) != lasting(grown.replace("skipped", "skipped, 1 failed"))
    assert lasting(shown) != lasting(grown.replace("....", "..F."))
