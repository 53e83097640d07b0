"""One flipped bit in the file, in any text of a session: it costs that session and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomkey.stores.base import Unreadable
from roomkey.stores.sqlite import SQLiteStore
from tests.stores.on_sqlite.parts import number_key
from tests.stores.records import make_record

MINE, OTHER, BOBS = number_key(0xABC), number_key(2), number_key(3)
ABOUT = "a client that is named once"


async def _make_file(path: Path) -> bytes:
    store = SQLiteStore(path)
    await store.create(MINE, make_record(user="annabelle", about=ABOUT.encode()))
    await store.create(OTHER, make_record(user="annabelle"))
    await store.create(BOBS, make_record(user="bob"))
    await store.close()
    return path.read_bytes()


@pytest.mark.parametrize("bit", [0, 4, 7])
@pytest.mark.parametrize("text", [MINE, ABOUT])
async def test_one_flipped_bit(tmp_path: Path, text: str, bit: int) -> None:
    """The other sessions are as they were. `of_user` works, and after both operations none of the user's is left."""
    content = await _make_file(tmp_path / "whole.db")
    row = content.rindex(MINE.encode(), 0, content.index(ABOUT.encode()))  # not the index's copy
    start = content.index(text.encode(), row)
    for at in range(start, start + len(text), 5):
        path = tmp_path / f"{at}.db"
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        store = SQLiteStore(path)
        for key in (OTHER, BOBS):
            assert await store.load(key) is not None
        for key, _ in await store.of_user("annabelle"):
            await store.delete(key)
        await store.discard_unreadable("annabelle")
        try:
            found = await store.load(MINE)
        except Unreadable:
            found = None
        assert found is None or found.user != "annabelle"
        assert await store.load(OTHER) is None and await store.load(BOBS) is not None
        assert await store.of_user("annabelle") == []
        await store.close()
