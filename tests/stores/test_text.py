"""Text that SQL databases take."""

from __future__ import annotations

from typing import Any

import pytest

from roomkey.errors import ConfigurationError
from roomkey.stores.text import printable, split_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("session", (None, "session")),
        ("shop.session", ("shop", "session")),
        ("_a$1.B2", ("_a$1", "B2")),
        ("x" * 50, (None, "x" * 50)),
    ],
)
def test_names_of_tables(name: str, parts: tuple[str | None, str]) -> None:
    """A name may have a schema before it."""
    assert split_name(name) == parts


@pytest.mark.parametrize("name", ["", "a.b.c", 'a"b', "a b", "a;b", "a\n", "1a", "a.", ".a", "x" * 51, "é", None, 5])
def test_no_names_of_tables(name: Any) -> None:
    """Nothing but a plain name gets into a statement."""
    with pytest.raises(ConfigurationError, match="table: "):
        split_name(name)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (None, None),
        ("", ""),
        ("Mozilla/5.0", "Mozilla/5.0"),
        ("zoë 漢", "zoë 漢"),
        ("a\0b", "ab"),
        ("\0", ""),
        ("a\0b\ud800c", "ab?c"),
    ],
)
def test_what_a_client_sent(text: str | None, kept: str | None) -> None:
    """NUL and half characters are left out; everything else stays as it was sent."""
    assert printable(text) == kept
