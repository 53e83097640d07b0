"""Authenticated encryption: what was sealed comes out for whoever has all that it is bound to, and for nobody else."""

import hmac
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from roomkey.wire.keys import SecretKeys
from roomkey.wire.seal import OVERHEAD, Opened, Sealer

ONE, OTHER = "the first secret key of all of these tests", "another secret key of all of these tests"
PINNED = (
    "01fc9b8007000102030405060708090a0b0c0d0e0fcc4494a6465989d8584f"
    "a399a477958b186bb2fdbf9717c40d028013659bab166ef2c15cddb866ca0f"
)
DATA = b"what nobody else may read"


def sealer(*keys, purpose="test", name="session"):
    return Sealer(SecretKeys(list(keys or (ONE,))), purpose=purpose, name=name)


def test_the_format_is_pinned(monkeypatch):
    """With the salt fixed, the sealed message is this one, to the last bit."""
    monkeypatch.setattr("roomkey.wire.seal.secrets.token_bytes", lambda count: bytes(range(count)))
    sealed = sealer().seal(DATA, bound=b"bound", session_id=b"an ID")
    assert sealed.hex() == PINNED
    assert sealer().open(sealed, bound=b"bound", session_id=b"an ID") == Opened(DATA, True)


def test_a_message_of_an_earlier_release_opens():
    """The pinned message opens without the salt being fixed."""
    assert sealer().open(bytes.fromhex(PINNED), bound=b"bound", session_id=b"an ID") == Opened(DATA, True)


def test_the_format_is_what_the_docstring_says():
    """Format, key name, salt and ciphertext, put together by hand, open."""
    bound = b"roomkey/1\0test\0session\0"
    root = hmac.digest(ONE.encode(), b"seal\0" + bound, "sha256")
    head = b"\x01" + hmac.digest(root, b"key name", "sha256")[:4] + b"0123456789abcdef"
    extracted = hmac.digest(root, head + b"id", "sha256")
    key, nonce = (hmac.digest(extracted, use, "sha256") for use in (b"key\x01", b"nonce\x01"))
    sealed = head + AESGCM(key).encrypt(nonce[:12], DATA, head + bound + b"more")
    assert sealer().open(sealed, bound=b"more", session_id=b"id") == Opened(DATA, True)


@given(st.binary(max_size=5000), st.binary(max_size=40), st.binary(max_size=40))
def test_what_is_sealed_comes_out(data, bound, session_id):
    """Sealing and opening gives the data back, and adds a fixed number of bytes."""
    sealed = sealer().seal(data, bound=bound, session_id=session_id)
    assert len(sealed) == len(data) + OVERHEAD
    assert sealer().open(sealed, bound=bound, session_id=session_id) == Opened(data, True)


def test_the_data_is_not_in_the_message():
    """Neither the data nor the key can be found in what was sealed, and sealing twice gives two messages."""
    one, two = sealer().seal(DATA), sealer().seal(DATA)
    assert DATA not in one and DATA[:8] not in one and ONE.encode() not in one
    assert one[OVERHEAD:] != two[OVERHEAD:]


def test_the_length_of_data_does_not_depend_on_its_content():
    """Nothing is compressed: data that repeats itself takes as much as data that does not."""
    assert len(sealer().seal(b"a" * 4096)) == len(sealer().seal(bytes(range(256)) * 16))


def test_every_bit_counts():
    """A message with any one bit turned does not open."""
    sealed = sealer().seal(DATA, bound=b"b")
    for index in range(len(sealed) * 8):
        altered = bytearray(sealed)
        altered[index // 8] ^= 1 << index % 8
        assert sealer().open(bytes(altered), bound=b"b") is None


def test_every_byte_counts():
    """A message that is cut anywhere, or goes on, does not open."""
    sealed = sealer().seal(DATA)
    for length in range(len(sealed)):
        assert sealer().open(sealed[:length]) is None
        assert sealer().open(sealed[len(sealed) - length :]) is None
    for more in range(256):
        assert sealer().open(sealed + bytes([more])) is None


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_two_messages_do_not_mix(one, two):
    """The head of one message and the rest of another one do not open."""
    first, second = sealer().seal(one), sealer().seal(two)
    for cut in (12, 21, len(first) - 16):
        assert sealer().open(first[:cut] + second[len(second) - len(first) + cut if cut > 21 else cut :]) is None


@pytest.mark.parametrize(
    ("opener", "bound", "session_id"),
    [
        (sealer(OTHER), b"bound", b"id"),
        (sealer(purpose="another"), b"bound", b"id"),
        (sealer(name="another"), b"bound", b"id"),
        (sealer(purpose="", name="test"), b"bound", b"id"),
        (sealer(purpose="testsession", name=""), b"bound", b"id"),
        (sealer(), b"", b"id"),
        (sealer(), b"bounD", b"id"),
        (sealer(), b"bound", b""),
        (sealer(), b"bound", b"iD"),
        (sealer(), b"boundid", b""),
        (sealer(), b"", b"boundid"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_everything_it_is_bound_to_counts(opener, bound, session_id):
    """Another key, purpose, name, bound or session ID opens nothing."""
    sealed = sealer().seal(DATA, bound=b"bound", session_id=b"id")
    assert opener.open(sealed, bound=bound, session_id=session_id) is None


@given(st.binary(max_size=200))
def test_random_bytes_are_nothing(noise):
    """Whatever the bytes, also behind a genuine head, opening them gives None and raises nothing."""
    assert sealer().open(noise) is None
    assert sealer().open(sealer().seal(b"")[:5] + noise) is None
    assert sealer().open(sealer().seal(b"")[:21] + noise) is None


def test_every_key_opens_and_the_first_seals():
    """A message of an older key opens, and says so; what is sealed anew does not open with the old one."""
    old = sealer(ONE).seal(DATA)
    both = sealer(OTHER, ONE)
    assert both.open(old) == Opened(DATA, False)
    assert not both.is_by_first_key(old)
    new = both.seal(DATA)
    assert both.open(new) == Opened(DATA, True)
    assert both.is_by_first_key(new)
    assert sealer(ONE).open(new) is None
    assert sealer(OTHER).open(new) == Opened(DATA, True)


def test_one_key_given_twice_is_one_key():
    """The first key counts as the first, also when it is in the list again."""
    assert sealer(ONE, OTHER, ONE).open(sealer(ONE).seal(DATA)) == Opened(DATA, True)


def test_hundreds_of_keys_cost_one_attempt(monkeypatch):
    """A message names its key: of 300 keys, one is tried."""
    keys = [f"a secret key with the number {number:010}" for number in range(300)]
    many = sealer(*keys)
    tried = []
    real = many.open.__globals__["_message_key"]
    monkeypatch.setattr("roomkey.wire.seal._message_key", lambda *args: tried.append(1) or real(*args))
    sealed = sealer(keys[-1]).seal(DATA)
    tried.clear()
    assert many.open(sealed) == Opened(DATA, False)
    assert len(tried) == 1


def test_keys_of_one_name_do_not_shadow_each_other(monkeypatch):
    """Where two keys happen to have the same name, both open what they sealed."""
    import roomkey.wire.seal

    real = roomkey.wire.seal._derive
    monkeypatch.setattr("roomkey.wire.seal._derive", lambda secret, context: (b"same", real(secret, context)[1]))
    both = sealer(ONE, OTHER)
    assert both.open(sealer(ONE).seal(DATA)) == Opened(DATA, True)
    assert both.open(sealer(OTHER).seal(DATA)) == Opened(DATA, False)


def test_a_missing_package_says_what_to_install():
    """Without `cryptography`, a configuration error names the extra; `import roomkey` does not need it."""
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "import roomkey\n"
        "try: roomkey.SessionMiddleware(None, secret_key='k' * 32, store='cookie://')\n"
        "except roomkey.ConfigurationError as error: print(error)\n"
        "roomkey.SessionMiddleware(None, secret_key='k' * 32, store='memory://'); print('fine')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "roomkey[crypto]" in run.stdout and run.stdout.endswith("fine\n")
