"""`python -m website.prose`: the prose of the pages, by three rules: short sentences, no semicolons, plain words.

A sentence has at most 25 words. Code and links' targets are no prose. A name in backticks is one word, and so is a list
of them, and a URL.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["findings"]

ROOT = Path(__file__).parent.parent
MOST_WORDS = 25  # in a sentence
# Word for word what this project does not say, with what it says in its place.
INSTEAD = {
    "adapter": "adaptor",
    "basically": "(leave it out)",
    "easily": "(leave it out)",
    "e.g.": "such as",
    "etc.": "and so on",
    "i.e.": "that is",
    "in order to": "to",
    "leverage": "use",
    "login": "log-in",
    "logout": "log-out",
    "obviously": "(leave it out)",
    "of course": "(leave it out)",
    "please note": "(leave it out)",
    "simply": "(leave it out)",
    "utilize": "use",
    "via": "through, or over",
}
_CODE = re.compile(r"^( *)(```|~~~).*?^\1\2$", re.M | re.S)
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_ENDS = re.compile(
    r"(?<=[.!?])[\"')*]*(?:\s+(?=[\"'(*]*[A-Z\d`])|\n)"  # the end of a sentence
    r"|:\s*$|\n(?= *[-*|] )|\n(?= *\d+\. )|\n#|\n\n",  # of an introduction, an item, a row, a heading, a paragraph
    re.M,
)


def findings(page: str) -> Iterator[tuple[int, str]]:
    """Give what is wrong with a page, each with the number of its line."""
    prose = _prose(page)
    for begins, sentence in _sentences(prose):
        line = prose.count("\n", 0, begins) + 1
        words = _words(sentence)
        if words > MOST_WORDS:
            yield line, f"{words} words in a sentence, at most {MOST_WORDS}: {' '.join(sentence.split())}"
        if ";" in sentence:
            yield line, f"a semicolon: {' '.join(sentence.split())}"
        for word, better in INSTEAD.items():
            if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", sentence, re.I):
                yield line, f"{word!r}: say {better}"


def _prose(page: str) -> str:
    """Return a page without its code, on the same lines."""
    for pattern in (_CODE, _COMMENT):
        page = pattern.sub(lambda found: "\n" * found[0].count("\n"), page)
    page = re.sub(r"^(    |:::).*$", "", page, flags=re.M)
    page = re.sub(r"``.+?``|`[^`\n]+`", "X", page)
    page = re.sub(r"X(?:,? (?:and |or )?X)+", "X", page)
    page = re.sub(r"!?\[([^\]]*)\]\([^)\s]*\)", r"\1", page)
    return re.sub(r"https?://\S+|^[ |:-]+$|&\w+;", "X", page, flags=re.M)


def _sentences(prose: str) -> Iterator[tuple[int, str]]:
    begins = 0
    for end in [*_ENDS.finditer(prose), None]:
        stop = end.start() if end else len(prose)
        for cell in re.finditer(r"[^|]+", prose[begins:stop]):
            yield begins + cell.start() + len(cell[0]) - len(cell[0].lstrip()), cell[0]
        begins = end.end() if end else stop


def _words(sentence: str) -> int:
    return len(re.findall(r"[\w'’]+(?:[-./][\w'’]+)*", sentence))


def main() -> int:
    """Print the findings of all pages. Returns the exit code."""
    pages = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    pages += [ROOT / "deploy" / "README.md", ROOT / "benchmarks" / "README.md"]
    found = [
        f"{page.relative_to(ROOT)}:{line}: {what}" for page in pages for line, what in findings(page.read_text("utf-8"))
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
