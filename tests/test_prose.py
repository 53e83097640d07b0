"""The check of the pages' prose: what it finds, and what it leaves alone."""

import pytest

from website.prose import findings

LONG = " ".join(["word"] * 26)


def _found(page: str) -> list[str]:
    return [what for _, what in findings(page)]


@pytest.mark.parametrize(
    "page",
    [
        f"{LONG}.",
        f"# Title\n\nA sentence. {LONG.capitalize()}.",
        f"- an item\n- {LONG}\n",
        f"| a | b |\n|---|---|\n| c | {LONG} |\n",
    ],
)
def test_a_long_sentence_is_found(page: str) -> None:
    """In a paragraph, in an item of a list and in a cell of a table."""
    (what,) = _found(page)
    assert what.startswith("26 words in a sentence")


@pytest.mark.parametrize(
    "page",
    [
        f"{LONG[5:]}.",
        f"{LONG[5:]}.\nAnother sentence.",
        f"**{LONG[5:]}.**\nAnother sentence.",
        f"{LONG[5:]}. 7 more words, which are another sentence.",
        f"```python\n{LONG}; word\n```",
        f"`{LONG};`",
        f"[a link](https://example.com/{LONG.replace(' ', '-')})",
        f"{LONG[10:]} `a`, `b`, `c` and `d`.",
        "- " + "\n- ".join([LONG[20:]] * 3),
    ],
)
def test_what_is_short_or_no_prose_is_left_alone(page: str) -> None:
    """25 words are no more than 25, a list of names is one word, and code is no prose."""
    assert _found(page) == []


def test_semicolons_and_words_are_found() -> None:
    """Each is said with the line where its sentence begins."""
    assert [*findings("One.\n\nTwo; three.\n\nSimply utilize it via this.\n")] == [
        (3, "a semicolon: Two; three."),
        (5, "'simply': say (leave it out)"),
        (5, "'utilize': say use"),
        (5, "'via': say through, or over"),
    ]


def test_a_word_in_code_or_in_a_longer_word_is_no_finding() -> None:
    """`logout` may be a function's name, and "deviate" is no "via"."""
    assert _found("Call `logout()`, and do not deviate.") == []
