"""The secret key. No check shows it, or anything that it could be guessed from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from roomkey.cli.checks.looked import Finding, Gap, Looked, check
from roomkey.config import SessionConfig
from roomkey.wire.keys import SecretKeys

__all__ = ["key_per_process", "key_weak"]

_PAGE = "docs/howto-operate.md#secret-keys"
_ENOUGH_BYTES = 32  # as long as the output of SHA-256
_ENOUGH_KINDS = 9  # different bytes. 32 random hexadecimal digits have fewer once in 370,000 times.


@check("key-weak", _PAGE)
def key_weak(looked: Looked) -> Iterator[Finding | Gap]:
    """A secret key is short, or has hardly any different characters."""
    make = f"Make one with `roomkey keygen`, and give it as {looked.option('secret_key')} in every worker."
    values = {value for config in _configs(looked) for value in _values(config)}
    if any(len(value) < _ENOUGH_BYTES for value in values):
        yield Finding(f"A secret key is shorter than {_ENOUGH_BYTES} bytes, and may be guessed.", make)
    if any(len(value) >= _ENOUGH_BYTES and len(set(value)) < _ENOUGH_KINDS for value in values):
        yield Finding("A secret key has hardly any different characters, and may be guessed.", make)


@check("key-per-process", _PAGE)
def key_per_process(looked: Looked) -> Iterator[Finding | Gap]:
    """Each process has another secret key: it is made at start-up."""
    if looked.no_fingerprints:
        yield Gap(looked.no_fingerprints)
    elif not all(looked.fingerprints):
        yield Gap("the app's session managers are made later than its start in a process of its own")
    elif any(not _is_within(one, other) for one, other in combinations(looked.fingerprints, 2)):
        yield Finding(
            "Each process has another secret key. Workers refuse each other's cookies, and a restart logs everybody "
            "out.",
            f"Give {looked.option('secret_key')} one key, from the environment or a secret store. Do not make it when "
            "the app starts.",
        )


def _is_within(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether one process had all keys of the other. Some managers are made late, with the first request, say."""
    return set(one) <= set(other) or set(other) <= set(one)


def _configs(looked: Looked) -> list[SessionConfig]:
    return [manager.config for manager in looked.managers]


def _values(config: SessionConfig) -> tuple[bytes, ...]:
    keys: SecretKeys = config.secret_key
    return keys.values
