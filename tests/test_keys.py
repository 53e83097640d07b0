"""Secret keys and cards: what is accepted, what is refused, what is never shown."""

import base64
import enum
import re
import subprocess
import sys
import warnings
from pathlib import Path

import litestar.datastructures.secret_values as litestar
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lilya.datastructures import Secret as LilyaSecret
from pydantic import SecretBytes, SecretStr
from starlette.datastructures import CommaSeparatedStrings, Secret

from roomkey import ConfigurationError, SessionConfig, WeakSecretWarning
from roomkey.wire.keys import Keyring, SecretKeys, new_session_id, store_key

SECRET = "a secret that is long enough for every test here"
OTHER = "another secret that is long enough for every test"
ID = b"3fa2" + b"A" * 32


def _ring(*secrets, purpose="session cookie", name="session"):
    return Keyring(SecretKeys(list(secrets or [SECRET])), purpose=purpose, name=name)


# --- cards ------------------------------------------------------------------------------------------------------------


def test_the_card_never_changes():
    """A fixed secret, purpose, name and ID give the card that earlier versions gave."""
    ring = Keyring(SecretKeys("s" * 32), purpose="session", name="session")
    card = b"b1Xo3fa2AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA186bf8aa09210d3746bf7e23a4261e77e27d4b4c"
    assert ring.sign(ID) == card
    assert ring.verify(card) == ID


def test_a_card_comes_back():
    """A fresh ID is signed as 80 characters that need no quoting, and verified."""
    session_id = new_session_id()
    card = _ring().sign(session_id)
    assert re.fullmatch(rb"[A-Za-z0-9_-]{80}", card)
    assert _ring().verify(card) == session_id


def test_a_list_rotates():
    """The first key signs, all verify, and a removed one is refused."""
    old_card = _ring(SECRET).sign(ID)
    both = _ring(OTHER, SECRET)
    assert both.sign(ID) == _ring(OTHER).sign(ID) != old_card
    assert both.verify(old_card) == ID
    assert both.verify(both.sign(ID)) == ID
    assert _ring(OTHER).verify(old_card) is None


@pytest.mark.parametrize(
    "ring",
    [_ring(OTHER), _ring(name="other"), _ring(purpose="other"), _ring(SECRET + " ")],
    ids=["key", "name", "purpose", "longer key"],
)
def test_a_card_for_another_use_is_refused(ring):
    """A card of another key, cookie name or purpose is refused, even under the name of the right key."""
    card = ring.sign(ID)
    assert _ring().verify(card) is None
    assert _ring().verify(_ring().sign(ID)[:4] + card[4:]) is None


def test_a_card_of_another_length_is_refused():
    """A card that is truncated or extended is refused."""
    card = _ring().sign(ID)
    for length in range(len(card)):
        assert _ring().verify(card[:length]) is None
        assert _ring().verify(card[len(card) - length :]) is None
    for extended in (card + b"a", b"a" + card, card + b"=", card + b"\0", card + card):
        assert _ring().verify(extended) is None


def test_a_card_with_one_other_character_is_refused():
    """A card with any one character flipped is refused: in case, in its bits, or altogether."""
    card = _ring().sign(ID)
    for index in range(len(card)):
        byte = card[index]
        for other in {byte ^ 1, byte ^ 0x20, byte ^ 0x80, ord("!")} - {byte}:
            assert _ring().verify(card[:index] + bytes([other]) + card[index + 1 :]) is None


@given(st.binary(max_size=100) | st.binary(min_size=80, max_size=80))
def test_noise_is_no_card(noise):
    """Arbitrary bytes are refused without an error."""
    ring = _ring()
    assert ring.verify(noise) is None
    assert ring.verify(ring.sign(ID)[:4] + noise[:76].ljust(76, b"\xff")) is None


def test_ids_are_random_and_stores_hold_none(monkeypatch):
    """IDs are a place and 192 bits of the system's secure generator; a store's key shows nothing of these."""
    ids = {new_session_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(rb"[0-9a-f]{4}[A-Za-z0-9_-]{32}", session_id) for session_id in ids)
    assert store_key(ID) == "3fa21f1df5a42cdacf1177e5a8752b229e4f7d27eb44a2c4153ba4432f6faa74"
    monkeypatch.setattr("roomkey.wire.keys.urandom", lambda count: bytes(range(count)))
    assert new_session_id() == b"1819" + base64.urlsafe_b64encode(bytes(range(24)))


def test_an_id_beside_another_has_its_place():
    """An ID that is made for a session in a store has the place of that, and 192 bits of its own."""
    first, second = new_session_id(), new_session_id(store_key(ID))
    assert store_key(second)[:4] == second[:4].decode() == "3fa2" and second[4:] != ID[4:]
    assert store_key(first)[:4] == first[:4].decode()
    assert len({new_session_id()[:4] for _ in range(100)}) > 50


# --- secrets ----------------------------------------------------------------------------------------------------------


class _HiddenSecret:
    def __init__(self, value):
        self._value = value

    def __repr__(self):
        return "Secret('***')"

    def __str__(self):
        return self._value


class Masked(_HiddenSecret):
    """Its text is the same whatever it hides."""

    def __str__(self):
        return "********"


class Plain(enum.Enum):
    SECRET = SECRET


class Named(enum.StrEnum):
    SECRET = SECRET


def test_several_keys_in_any_sequence_rotate():
    """Starlette's list of strings from the environment is a list of keys, and not one key made of all of them."""
    assert SecretKeys(CommaSeparatedStrings([SECRET, OTHER])) == SecretKeys([SECRET, OTHER])


@pytest.mark.parametrize(
    "value",
    [
        SECRET.encode(),
        SecretStr(SECRET),
        SecretBytes(SECRET.encode()),
        Secret(SECRET),
        LilyaSecret(SECRET),
        litestar.SecretString(SECRET),
        litestar.SecretBytes(SECRET.encode()),
        _HiddenSecret(SECRET),
        Named.SECRET,
        [SECRET],
        (Secret(SECRET),),
        CommaSeparatedStrings(SECRET),
    ],
    ids=lambda value: f"{type(value).__module__}.{type(value).__name__}",
)
def test_every_form_of_a_secret_is_the_same_key(value):
    """bytes, pydantic's and Starlette's secrets, alone or in a list, are the key that the text is."""
    assert SecretKeys(value) == SecretKeys(SECRET)
    assert SecretKeys(SecretKeys(value)) == SecretKeys(SECRET)
    assert hash(SecretKeys(value)) == hash(SecretKeys(SECRET))


@pytest.mark.parametrize(
    "value",
    [
        "",
        b"",
        "  \n",
        None,
        5,
        1.5,
        True,
        [],
        (),
        [[SECRET]],
        [SECRET, ""],
        [SECRET, None],
        object(),
        {},
        {SECRET},
        bytearray(SECRET.encode()),
        str,
        SecretStr,
        SecretStr(""),
        Secret(""),
        Path(SECRET),
        Plain.SECRET,
        Masked(SECRET),
        ValueError(SECRET),
        memoryview(SECRET.encode()),
        CommaSeparatedStrings(""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_secret_is_refused(value):
    """What is empty or no secret is refused, naming the option and the command, and showing no key."""
    for make in (SecretKeys, lambda given: SessionConfig(secret_key=given, store="memory://")):
        with pytest.raises(ConfigurationError, match=r"^secret_key.*token_urlsafe") as caught:
            make(value)
        assert SECRET not in str(caught.value)


def test_a_secret_with_a_lone_surrogate_is_refused_properly():
    """A secret that is no valid text is refused with ConfigurationError."""
    with pytest.raises(ConfigurationError, match=r"^secret_key"):
        SecretKeys("\ud800" * 32)


def test_secrets_are_not_shown():
    """No repr shows a secret, and `str()` raises rather than give a constant to sign with."""
    keys = SecretKeys([SECRET, OTHER])
    config = SessionConfig(secret_key=[SECRET, OTHER], store="memory://")
    for shown in (repr(keys), repr(config), str(config), f"{config}", repr(_ring())):
        assert SECRET not in shown and OTHER not in shown
    with pytest.raises(TypeError):
        str(keys)
    with pytest.raises(TypeError):
        f"{keys}"
    with pytest.raises(TypeError):
        str(config.secret_key)


# --- the warning ------------------------------------------------------------------------------------------------------


def _caught(make):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return caught


@pytest.mark.parametrize("value", ["x" * 31, b"x" * 31, [SECRET, "x" * 31], SecretStr("short")], ids=repr)
def test_a_short_secret_warns_with_the_command(value):
    """A key under 32 bytes warns once, with the command that makes a good one and without the key."""
    (warning,) = _caught(lambda: SessionConfig(secret_key=value, store="memory://"))
    assert warning.category is WeakSecretWarning
    assert "python -c 'import secrets; print(secrets.token_urlsafe(32))'" in str(warning.message)
    assert "xxx" not in str(warning.message)


def test_the_warning_points_at_the_caller():
    """The warning's file is the one where the SessionConfig is made."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SessionConfig(secret_key="short", store="memory://")
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("value", ["x" * 32, b"x" * 32, "é" * 16, [SECRET, OTHER]], ids=type)
def test_a_long_secret_does_not_warn(value):
    """32 bytes are enough, however few characters they are."""
    assert _caught(lambda: SessionConfig(secret_key=value, store="memory://")) == []


def test_the_advised_command_makes_a_good_secret():
    """What the advised command prints is accepted without a warning."""
    command = [sys.executable, "-c", "import secrets; print(secrets.token_urlsafe(32))"]
    secret = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert _caught(lambda: SecretKeys(secret)) == []
