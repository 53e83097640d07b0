"""Options from environment variables."""

import dataclasses
import os
import re
import warnings
from pathlib import Path

import pytest

from roomkey import ConfigurationError, SessionConfig, WeakSecretWarning
from roomkey.ravyn import SessionConfig as RavynConfig
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import SQLiteStore

KEY = "a secret that is long enough for every test here"
OLD = "an older secret that is long enough for these too"
ADVICE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


@pytest.fixture
def setenv(monkeypatch):
    """Return a function that sets variables; those of the options are unset but for a secret key and a store."""
    for name in [name for name in os.environ if name.startswith("ROOMKEY_")]:
        monkeypatch.delenv(name)

    def setenv(**variables):
        for name, text in {"ROOMKEY_SECRET_KEY": KEY, "ROOMKEY_STORE": "memory://", **variables}.items():
            monkeypatch.setenv(name, text)

    return setenv


@pytest.mark.parametrize("cls", [SessionConfig, RavynConfig])
def test_the_environment_makes_a_config(setenv, cls):
    """It is what the constructor makes, of the class that was asked."""
    setenv(ROOMKEY_MAX_AGE="60")
    config = cls.from_env()
    assert type(config) is cls and type(config.store) is MemoryStore and config.max_age == 60
    assert config.secret_key == SessionConfig(secret_key=KEY, store="memory://").secret_key


VALUES = {
    "session_cookie": ("sid", "sid"),
    "max_age": ("3600", 3600),
    "same_site": ("strict", "strict"),
    "https_only": ("true", True),
    "persistent": ("false", False),
    "path": ("/shop", "/shop"),
    "domain": ("example.com", "example.com"),
    "partitioned": ("0", False),
    "absolute_timeout": ("1e6", 1e6),
    "anonymous_max_age": ("60.5", 60.5),
    "user_key": ("member", "member"),
    "rotate_on": ('["role", "user.mfa"]', ("role", "user.mfa")),
    "max_sessions_per_user": ("3", 3),
    "record_client": ("on", True),
    "seal": ("yes", True),
    "store_timeout": ("0.5", 0.5),
    "max_bytes": ("1024", 1024),
    "strict_types": ("TRUE", True),
    "live": ("yes", True),
    "live_interval": ("5", 5),
    "card_header": ("X-Auth-Token", "X-Auth-Token"),
    "vary": ("always", "always"),
    "clear_site_data": ('["cache", "storage"]', ("cache", "storage")),
    "exclude": ('["/health", "/static/"]', ("/health", "/static/")),
    "passive": ('["/poll"]', ("/poll",)),
    "near_cache": ("10000", 10_000),
    "near_max_age": ("0.5", 0.5),
    "fresh": ('["/admin/"]', ("/admin/",)),
}
TESTED_ELSEWHERE = {"secret_key", "store"}
NO_TEXT = {"country", "encoders", "legacy", "on_event", "on_client_changed", "clock"}


def test_every_option_has_a_value_here():
    """A new option is read from the environment, or says that it is not."""
    assert {field.name for field in dataclasses.fields(SessionConfig)} == {*VALUES} | TESTED_ELSEWHERE | NO_TEXT


@pytest.mark.parametrize("option", VALUES)
def test_an_option_has_its_type(setenv, option):
    """A text becomes what the option takes."""
    text, value = VALUES[option]
    setenv(**{f"ROOMKEY_{option.upper()}": text})
    found = getattr(SessionConfig.from_env(), option)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("Auto", "auto"), ("on", True), ("0", False)])
def test_a_boolean_or_a_word(setenv, text, value):
    """`https_only` takes both."""
    setenv(ROOMKEY_HTTPS_ONLY=text, ROOMKEY_PARTITIONED="0")
    assert SessionConfig.from_env().https_only == value


@pytest.mark.parametrize(
    "option",
    ["max_age", "domain", "absolute_timeout", "anonymous_max_age", "user_key", "max_sessions_per_user"],
)
def test_none_is_none(setenv, option):
    """What may be None is None where the variable says so."""
    setenv(**{f"ROOMKEY_{option.upper()}": "None"})
    config = SessionConfig.from_env()
    assert config == dataclasses.replace(config, **{option: None})


def test_a_url_is_the_store(setenv, tmp_path):
    """It is opened as the option's own text is."""
    setenv(ROOMKEY_STORE=f"sqlite:///{tmp_path}/x.sqlite3")
    assert isinstance(SessionConfig.from_env().store, SQLiteStore)


def test_a_json_list_rotates(setenv):
    """The first key signs, and all of them verify. One key may stand in a list too, where it begins with a bracket."""
    setenv(ROOMKEY_SECRET_KEY=f'["{KEY}", "{OLD}"]')
    assert SessionConfig.from_env().secret_key.values == (KEY.encode(), OLD.encode())
    setenv(ROOMKEY_SECRET_KEY=f'["[{KEY}"]')
    assert SessionConfig.from_env().secret_key.values == (f"[{KEY}".encode(),)


def test_arguments_count_more_than_variables(setenv):
    """What is given by name is not read, be it wrong in the environment."""
    setenv(ROOMKEY_MAX_AGE="a day", ROOMKEY_STORE="nothing", ROOMKEY_DOMAIN="example.com", ROOMKEY_CLOCK="x")
    config = SessionConfig.from_env(max_age=60, store=MemoryStore(), clock=lambda: 5.0)
    assert (config.max_age, config.domain, config.clock()) == (60, "example.com", 5.0)
    assert SessionConfig.from_env(max_age=60, store=MemoryStore(), clock=lambda: 5.0, secret_key=OLD).secret_key.values


def test_no_variable_is_the_default(setenv, monkeypatch):
    """The environment of others changes nothing."""
    setenv(MAX_AGE="5", roomkey_max_age="5", ROOMKEYMAX_AGE="5")
    assert SessionConfig.from_env().max_age == 14400
    monkeypatch.delenv("ROOMKEY_SECRET_KEY")
    assert SessionConfig.from_env(secret_key=KEY).secret_key.values == (KEY.encode(),)


WRONG = {
    # No such name
    "a wrong name": ("MAXAGE", "5", "no such option; did you mean ROOMKEY_MAX_AGE?"),
    "another library's name": ("COOKIE_NAME", "x", "no such option; did you mean ROOMKEY_SESSION_COOKIE?"),
    "another library's option": ("ROLLING", "1", "not an option of Roomkey; max_age counts from the last use in any "),
    "a name like no other": ("ZZZZ", "1", "no such option; the options are ROOMKEY_SECRET_KEY, ROOMKEY_SESSION_"),
    "no name": ("", "1", "no such option; the options are ROOMKEY_SECRET_KEY, "),
    # No such value
    "no number": ("MAX_AGE", "4h", "got '4h'; it takes a number of seconds, or none"),
    "no number without none": ("STORE_TIMEOUT", "none", "got 'none'; it takes a number of seconds"),
    "no whole number": ("MAX_BYTES", "1.5", "got '1.5'; it takes a whole number"),
    "no boolean": ("SEAL", "2", "got '2'; it takes true or false"),
    "no boolean and no word": ("HTTPS_ONLY", "2", "got '2'; it takes true or false, or auto"),
    "no list": ("EXCLUDE", "/health", "got '/health'; it takes a JSON list of texts, such as ["),
    "no list of texts": ("PASSIVE", "[5]", "got '[5]'; it takes a JSON list of texts, such as ["),
    "a wrong path": ("PASSIVE", '["poll"]', "got 'poll'; it takes paths that begin with '/', such as '/poll/'"),
    "an empty text": ("DOMAIN", "", "it is empty; unset it, and the option has its default"),
    "no text": ("CLOCK", "time.time", "no text stands for what this option takes; give it as an argument"),
    "no text either": ("LEGACY", "[]", "no text stands for what this option takes; give it as an argument"),
    # A value that the configuration refuses
    "out of range": ("MAX_AGE", "-5", "got -5; it takes a number of seconds above 0, or a timedelta"),
    "infinity": ("MAX_AGE", "inf", "got inf; it takes a number of seconds above 0, or a timedelta"),
    "a wrong word": ("SAME_SITE", "Lax", "got 'Lax'; it takes 'lax', 'strict' or 'none'"),
    "two options": ("ABSOLUTE_TIMEOUT", "60", "got 60; it is never below max_age (14400): give a higher one or a "),
    "a wrong store": ("STORE", "reddis://host", "unknown scheme"),
    "an empty key": ("SECRET_KEY", "", "it is empty; unset it"),
    "no keys": ("SECRET_KEY", "[]", "an empty list; it takes at least one key"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_variable_is_named(setenv, mistake):
    """The message begins with the variable's name."""
    name, text, says = WRONG[mistake]
    setenv(**{f"ROOMKEY_{name}": text})
    with pytest.raises(ConfigurationError) as caught:
        SessionConfig.from_env()
    assert str(caught.value).startswith(f"ROOMKEY_{name}: ") and says in str(caught.value)


def test_a_wrong_argument_keeps_its_name(setenv):
    """The message names what the code gave."""
    setenv(ROOMKEY_MAX_AGE="60")
    with pytest.raises(ConfigurationError, match=r"^absolute_timeout: got 30; it is never below max_age \(60\)"):
        SessionConfig.from_env(absolute_timeout=30)
    with pytest.raises(ConfigurationError, match=r"^maxage: no such option; did you mean max_age\?"):
        SessionConfig.from_env(maxage=30)


def test_a_missing_key_is_named(setenv, monkeypatch):
    """The message says which variable to set."""
    setenv()
    monkeypatch.delenv("ROOMKEY_SECRET_KEY")
    with pytest.raises(ConfigurationError) as caught:
        SessionConfig.from_env()
    assert str(caught.value) == f"ROOMKEY_SECRET_KEY: missing; set it, or give secret_key; {ADVICE}"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SECRET_KEY", '["hunter2-hunter2'),
        ("SECRET_KEY", '["hunter2", 5]'),
        ("SECRET_KEY", '["hunter2", ""]'),
        ("STORE", "redis://ishmael:hunter2@localhost/zero"),
    ],
)
def test_no_error_shows_a_secret(setenv, variable, text):
    """Neither the message nor what it was made of has the text."""
    setenv(**{f"ROOMKEY_{variable}": text})
    with warnings.catch_warnings(), pytest.raises(ConfigurationError, match=f"^ROOMKEY_{variable}\\b") as caught:
        warnings.simplefilter("ignore", WeakSecretWarning)
        SessionConfig.from_env()
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_a_weak_key_is_the_callers(setenv):
    """The warning stands at the line that asked for the configuration."""
    setenv(ROOMKEY_SECRET_KEY="weak")
    with pytest.warns(WeakSecretWarning) as caught:
        SessionConfig.from_env()
    assert caught[0].filename == __file__


def test_the_page_of_options_names_what_has_no_variable():
    """The options that no text stands for are named."""
    page = (Path(__file__).parent.parent / "docs" / "options.md").read_text()
    said = re.search(r"^(.*) have no variable", page, re.M)[1]
    assert set(re.findall(r"`(\w+)`", said)) == NO_TEXT
