"""The texts of the pages: which language, and an app's own."""

import re
from string import Formatter

import pytest

from roomkey import ConfigurationError
from roomkey.pages.words import Words, de, en
from tests.pages.parts import DEVICES, OPERATORS, Site, text_of

ACCEPTED = [
    ("", "en"),
    ("de", "de"),
    ("de-AT,de;q=0.9,en;q=0.8", "de"),
    ("fr-FR,fr;q=0.9,de;q=0.5,en;q=0.7", "en"),
    ("fr, de;q=0.5", "de"),
    ("de;q=0, en", "en"),
    ("*", "en"),
    ("DE", "de"),
    ("de;q=x,;;,=", "en"),
    ("de;q=nan", "en"),
]


@pytest.mark.parametrize(("accepted", "language"), ACCEPTED)
def test_the_browsers_language(accepted, language):
    """The one that it wants most, of those that are there; English where none is, and where the header is junk."""
    assert Words(None, {}).for_browser(accepted).language == language


async def test_pages_in_german():
    """A German browser gets German pages, which say so."""
    site = Site(operators={"allow": lambda scope: True})
    await site.browser().log_in("7")
    browser = site.browser(language="de-DE,de;q=0.9")
    await browser.log_in("7")
    page = await browser.get(DEVICES)
    assert '<html lang="de" dir="ltr">' in page.text and page.headers["content-language"] == "de"
    assert "Ihre Geräte" in text_of(page) and "Firefox auf Windows Dieses Gerät" in text_of(page)
    assert "21.09.2026 14:13 UTC" in text_of(page)
    assert "Laufende Sitzungen" in text_of(await browser.get(OPERATORS))


async def test_one_language_for_everybody():
    """`language` counts whatever the browser asks for."""
    browser = Site(devices={"language": "de"}).browser(language="en")
    assert "Bitte melden Sie sich an" in text_of(await browser.get(DEVICES))


async def test_an_apps_own_catalogue():
    """An app adds a language, whose missing texts are English, and replaces single texts of one that is there."""
    words = {"ar": {"direction": "rtl", "anonymous_title": "سجّل الدخول"}, "en": {"anonymous_text": "Only for guests."}}
    site = Site(devices={"words": words})
    page = await site.browser(language="ar-EG").get(DEVICES)
    assert '<html lang="ar" dir="rtl">' in page.text and "سجّل الدخول" in text_of(page)
    assert "Only for guests." in text_of(page)
    assert "Only for guests." in text_of(await site.browser(language="en").get(DEVICES))
    assert "Diese Seite" in text_of(await site.browser(language="de").get(DEVICES))


WRONG = [
    ("fr", {}, "language: got 'fr'; it takes None or one of de, en."),
    (None, {"fr": {"log_inn": "x"}}, "log_inn: no such option in words['fr']; did you mean log_in?"),
    (None, {"fr": {"end_of": "Fin de {appareil}"}}, "words['fr']['end_of']: got 'Fin de {appareil}'; the fields that"),
    (None, {"fr": {"end": "Fin {"}}, "words['fr']['end']: got 'Fin {'; it takes a text"),
    (None, {"fr": "x"}, "words: it takes texts by language and key"),
]


@pytest.mark.parametrize(("language", "more", "said"), WRONG)
def test_wrong_words_are_named(language, more, said):
    """A key or a field that there is not, and a language without texts, are errors when the page is made."""
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        Words(language, more)


def test_german_has_every_text():
    """The catalogue has each key but the direction, with the same fields."""
    assert set(de.WORDS) == set(en.WORDS) - {"direction"}
    for key, text in de.WORDS.items():
        assert _fields(text) == _fields(en.WORDS[key]), key


def _fields(text):
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


SPANS = [(0, "just now"), (119, "just now"), (120, "2 min ago"), (7199, "119 min ago"), (7200, "2 h ago"),
         (172799, "47 h ago"), (172800, "2 days ago"), (-5, "just now")]  # fmt: skip


@pytest.mark.parametrize(("seconds", "text"), SPANS)
def test_how_long_ago(seconds, text):
    """The unit is such that there are at least two of it, so that no language has to decline it for one."""
    assert Words("en", {}).for_browser("").ago(seconds) == text
