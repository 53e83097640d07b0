"""What the servers of the tests have in common."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import itertools
import os
import random
import shutil
import signal
import socket
import time
import urllib.parse
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Running", "free_port", "freeze", "give", "make_certificate", "make_url", "nobody"]


class Running:
    """A server that runs inside a `with`, and is gone after it."""

    def start(self) -> None:
        raise NotImplementedError

    def remove(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


def make_url(scheme: str, user: str, password: str, port: int, database: str, query: dict[str, str]) -> str:
    """Return the URL of a database on this machine."""
    who = ":".join(urllib.parse.quote(part, safe="") for part in (user, password))
    tail = f"?{urllib.parse.urlencode(query)}" if query else ""
    return f"{scheme}://{who}@127.0.0.1:{port}/{database}{tail}"


def nobody() -> dict[str, str | list[str]]:
    """For Popen, of a server that refuses to run as root: the user who may do nothing."""
    return {"user": "nobody", "group": _group(), "extra_groups": []} if os.geteuid() == 0 else {}


def give(*paths: Path) -> None:
    """Make `nobody` the owner, where servers run as that user."""
    if os.geteuid() == 0:
        for path in paths:
            shutil.chown(path, "nobody", _group())


def _group() -> str:
    import grp
    import pwd

    return grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name


# Below those that the system gives to clients: one of them could get the port of a server that is down for a moment.
_ports = itertools.cycle(random.sample(range(10_000, 32_000), 22_000))


def free_port() -> int:
    """Return a port of this machine that nobody uses now, and that this process has not been given before."""
    for port in _ports:
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError  # the ports go round


def freeze(pid: int) -> None:
    """Stop a process, and return when it stands still: its threads run on for a moment after the signal."""
    os.kill(pid, signal.SIGSTOP)
    while set(_states(pid)) - {"T", "t"}:
        time.sleep(0.001)


def _states(pid: int) -> list[str]:
    """Return the state of each thread, as Linux calls it; none where the process is gone, or the system another."""
    try:
        tasks = [task.joinpath("stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [task.rpartition(")")[2].split()[0] for task in tasks]


def make_certificate(certificate: Path, key: Path) -> None:
    """Write a certificate for 127.0.0.1 and localhost that is its own authority, and its key, as PEM files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(secret, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.touch(mode=0o600)  # PostgreSQL refuses one that others can read
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
