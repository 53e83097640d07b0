"""The shop's guests: one SQLAlchemy table, passwords hashed with scrypt. It knows nothing of sessions."""

import asyncio
import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import String, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# OWASP's Password Storage Cheat Sheet: N=2^15, r=8, p=3 (32 MiB a hash).
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**15, 8, 3
_SCRYPT_MAXMEM = 64 * 1024 * 1024  # in bytes


class _Base(DeclarativeBase):
    pass


class User(_Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    full_name: Mapped[str] = mapped_column(String(200))
    room: Mapped[str] = mapped_column(String(20))
    salt: Mapped[bytes]
    password_hash: Mapped[bytes]


# name: (full name, room, password). For a demo only: a real app has no passwords in its source.
_DEMO_USERS: Mapping[str, tuple[str, str, str]] = {
    "guest": ("Greta Guest", "217", "key"),
    "manager": ("Marcel Manager", "1", "master"),
}


class Users:
    """The table of guests in the SQLite file `path`."""

    def __init__(self, path: Path) -> None:
        self._engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        self._session = async_sessionmaker(self._engine, expire_on_commit=False)

    async def open(self) -> None:
        """Make the table where there is none, and the demo guests where they are missing."""
        async with self._engine.begin() as connection:
            await connection.run_sync(_Base.metadata.create_all)
        for name, (full_name, room, password) in _DEMO_USERS.items():
            if await self._named(name) is None:
                await self._add(name, full_name, room, password)

    async def close(self) -> None:
        await self._engine.dispose()

    async def get(self, user_id: int) -> User | None:
        async with self._session() as session:
            return await session.get(User, user_id)

    async def check(self, name: str, password: str) -> User | None:
        """The user with this name and password, or `None`. An unknown name takes as long as a wrong password."""
        user = await self._named(name)
        salt = user.salt if user else b"\0" * 16
        found = await asyncio.to_thread(_hash, password, salt)
        expected = user.password_hash if user else b""
        return user if hmac.compare_digest(found, expected) else None

    async def _named(self, name: str) -> User | None:
        async with self._session() as session:
            return (await session.execute(select(User).where(User.name == name))).scalar_one_or_none()

    async def _add(self, name: str, full_name: str, room: str, password: str) -> None:
        salt = os.urandom(16)
        password_hash = await asyncio.to_thread(_hash, password, salt)
        user = User(name=name, full_name=full_name, room=room, salt=salt, password_hash=password_hash)
        try:
            async with self._session.begin() as session:
                session.add(user)
        except IntegrityError:
            pass  # another worker, started at the same moment, was first


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P, maxmem=_SCRYPT_MAXMEM)
