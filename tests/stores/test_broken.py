"""Each test of the published suite can fail: for each there is a store with the very fault that it looks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest

from roomkey.stores.base import Conflict, Notice, Record, Store, What
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock, StoreContract, watching


class _Broken(MemoryStore):
    """The store in memory, with short cuts for those that break it."""

    def _raw(self, key: str) -> Record | None:
        return self._records.get(key)

    def _live(self, key: str) -> Record | None:
        record = self._raw(key)
        return record if record is not None and record.expires_at > self._clock() else None


class ReturnsAnEmptyRecord(_Broken):
    async def load(self, key: str) -> Record | None:
        return await super().load(key) or Record(data=b"", version=0, created_at=0.0, expires_at=0.0)


class NeverExpires(_Broken):
    async def load(self, key: str) -> Record | None:
        return self._raw(key)


class ExpiresTooLate(_Broken):
    async def load(self, key: str) -> Record | None:
        record = self._raw(key)
        return record if record is not None and record.expires_at >= self._clock() else None


class HidesTombstones(_Broken):
    async def load(self, key: str) -> Record | None:
        record = await super().load(key)
        return None if record is None or record.successor else record


class KeepsTombstones(_Broken):
    async def load(self, key: str) -> Record | None:
        record = self._raw(key)
        return record if record is not None and record.successor else await super().load(key)


class CutsKeys(_Broken):
    async def load(self, key: str) -> Record | None:
        return await super().load(key[:-1])

    async def create(self, key: str, record: Record) -> None:
        await super().create(key[:-1], record)


class _Mishears(_Broken):
    """Tells those who watch something else than what was done."""

    def heard(self, notice: Notice, watcher: int) -> Notice | None:
        """Return what is told in the place of a notice; None: nothing. `watcher`: which one it is, from 0."""
        raise NotImplementedError

    def watch(
        self, tell: Callable[[Notice], None], keys: Callable[[], Collection[str]], *, changes: bool = False
    ) -> Callable[[], None]:
        watcher = self._count = getattr(self, "_count", -1) + 1

        def tell_other(notice: Notice) -> None:
            other = self.heard(notice, watcher)
            if other is not None:
                tell(other)

        return super().watch(tell_other, keys, changes=changes)


class StandsSecond(_Mishears):
    def watch(
        self, tell: Callable[[Notice], None], keys: Callable[[], Collection[str]], *, changes: bool = False
    ) -> Callable[[], None]:
        tell(Notice(What.LOST))
        return super().watch(tell, keys, changes=changes)

    def heard(self, notice: Notice, watcher: int) -> Notice | None:
        return notice


class TellsOfWhatIsStillThere(_Mishears):
    """Tells of the end before the record has gone: it is put back for the moment of the notice."""

    async def delete(self, key: str) -> None:
        record = self._raw(key)
        await super().delete(key)
        if record is not None:
            self._records[key] = record

    def heard(self, notice: Notice, watcher: int) -> Notice | None:
        return notice


class TellsEndsAsEndsOnce(_Mishears):
    """An update that ends a session leaves it there."""

    async def update(self, key: str, record: Record, *, version: int) -> None:
        before = self._raw(key)
        await super().update(key, record, version=version)
        if record.expires_at <= self._clock() and before is not None:
            self._records[key] = before

    def heard(self, notice: Notice, watcher: int) -> Notice | None:
        return notice


class ForgetsWhereTo(_Mishears):
    def heard(self, notice: Notice, watcher: int) -> Notice | None:
        return notice._replace(key=notice.successor, successor="") if notice.what is What.MOVED else notice


class TellsEverybodyOfChanges(_Mishears):
    def watch(
        self, tell: Callable[[Notice], None], keys: Callable[[], Collection[str]], *, changes: bool = False
    ) -> Callable[[], None]:
        return super().watch(tell, keys, changes=True)

    def heard(self, notice: Notice, watcher: int) -> Notice | None:
        return notice


class TellsOfOneWiped(_Mishears):
    def heard(self, notice: Notice, watcher: int) -> Notice | None:
        return Notice(What.ENDED, next(iter(self._wiped))) if notice.what is What.WIPED else notice

    async def wipe(self) -> None:
        self._wiped = sorted(self._records)[:1]
        await super().wipe()


class TellsThoseWhoLeft(_Mishears):
    def watch(
        self, tell: Callable[[Notice], None], keys: Callable[[], Collection[str]], *, changes: bool = False
    ) -> Callable[[], None]:
        super().watch(tell, keys, changes=changes)
        return lambda: None

    def heard(self, notice: Notice, watcher: int) -> Notice | None:
        return notice


class _Changes(_Broken):
    """Loads something else than was stored."""

    def change(self, record: Record) -> Record:
        raise NotImplementedError

    async def load(self, key: str) -> Record | None:
        record = await super().load(key)
        return None if record is None else self.change(record)


class LosesTheClient(_Changes):
    def change(self, record: Record) -> Record:
        return replace(record, about=b"")


class EmptyBecomesNone(_Changes):
    def change(self, record: Record) -> Record:
        return replace(record, user=record.user or None)


class CutsAtNUL(_Changes):
    def change(self, record: Record) -> Record:
        return replace(record, data=record.data.split(b"\0")[0])


class OnlyLatin(_Changes):
    def change(self, record: Record) -> Record:
        return replace(record, user=record.user and record.user.encode("latin-1", "replace").decode("latin-1"))


class CreateOverwrites(_Broken):
    async def create(self, key: str, record: Record) -> None:
        self._put(key, record)


class CreateOverwritesTombstones(_Broken):
    async def create(self, key: str, record: Record) -> None:
        found = self._raw(key)
        if found is not None and found.successor:
            self._drop(key)
        await super().create(key, record)


class ExpiredKeysStayTaken(_Broken):
    def _check_free(self, key: str, now: float) -> None:
        if key in self._records:
            raise Conflict

    def _look_around(self, now: float) -> None:
        pass


class UpdatesDataOnly(_Broken):
    async def update(self, key: str, record: Record, *, version: int) -> None:
        before = self._raw(key) or record
        await super().update(key, replace(before, data=record.data, version=record.version), version=version)


class UpdateNeverShortens(_Broken):
    async def update(self, key: str, record: Record, *, version: int) -> None:
        before = self._raw(key) or record
        later = max(before.expires_at, record.expires_at)
        await super().update(key, replace(record, expires_at=later), version=version)


class IgnoresVersions(_Broken):
    """Also what a store does that compares first and writes later."""

    async def update(self, key: str, record: Record, *, version: int) -> None:
        found = self._raw(key)
        await asyncio.sleep(0)
        await super().update(key, record, version=found.version if found else version)

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        found = self._raw(key)
        found_version = found.version if found else version
        await super().rotate(key, new_key, record, tombstone, version=found_version)


class Upserts(_Broken):
    def _check_unchanged(self, key: str, version: int, now: float) -> None:
        if key in self._records:
            super()._check_unchanged(key, version, now)


class RevivesOnUpdate(_Broken):
    def _check_unchanged(self, key: str, version: int, now: float) -> None:
        if key not in self._records:
            raise Conflict


class UpdatesTombstones(_Broken):
    def _check_unchanged(self, key: str, version: int, now: float) -> None:
        found = self._live(key)
        if found is None or found.version != version:
            raise Conflict


class RefusesThePast(_Broken):
    async def update(self, key: str, record: Record, *, version: int) -> None:
        if record.expires_at > self._clock():
            await super().update(key, record, version=version)


class LeavesNoTombstone(_Broken):
    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        await super().rotate(key, new_key, record, tombstone, version=version)
        await self.delete(key)


class RotatesInTwoSteps(_Broken):
    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        await self.create(new_key, record)
        await self.update(key, tombstone, version=version)


class RotatesOldKeyFirst(_Broken):
    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        await self.update(key, tombstone, version=version)
        await self.create(new_key, record)


class TouchDoesNothing(_Broken):
    async def touch(self, key: str, expires_at: float) -> bool:
        return self._live(key) is not None


class TouchShortens(_Broken):
    async def touch(self, key: str, expires_at: float) -> bool:
        found = self._live(key)
        if found is None or found.successor:
            return False
        self._put(key, replace(found, expires_at=expires_at))
        return True


class TouchRevives(_Broken):
    async def touch(self, key: str, expires_at: float) -> bool:
        found = self._raw(key)
        if found is None:
            return False
        self._put(key, replace(found, expires_at=max(found.expires_at, expires_at)))
        return True


class TouchAlwaysSaysYes(_Broken):
    async def touch(self, key: str, expires_at: float) -> bool:
        await super().touch(key, expires_at)
        return True


class DeleteDoesNothing(_Broken):
    async def delete(self, key: str) -> None:
        pass


class DeleteSparesTombstones(_Broken):
    async def delete(self, key: str) -> None:
        found = self._raw(key)
        if found is not None and not found.successor:
            await super().delete(key)


class DeleteRaisesKeyError(_Broken):
    async def delete(self, key: str) -> None:
        del self._records[key]


class ComparesFirstWritesLater(_Broken):
    async def create(self, key: str, record: Record) -> None:
        self._check_free(key, self._clock())
        await asyncio.sleep(0)
        self._put(key, record)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        self._check_unchanged(key, version, self._clock())
        await asyncio.sleep(0)
        self._put(key, record)

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        self._check_unchanged(key, version, self._clock())
        await asyncio.sleep(0)
        self._put(key, tombstone)
        self._put(new_key, record)


class MixesUpAnswers(_Broken):
    """Writes what was asked last for all that is asked in one turn of the loop."""

    async def create(self, key: str, record: Record) -> None:
        self._last = record
        await asyncio.sleep(0)
        await super().create(key, self._last)


class PurgesWithoutLimit(_Broken):
    async def purge(self, limit: int) -> int:
        return await super().purge(1000)


class TellsOfTombstones(_Broken):
    async def purge_telling(self, limit: int, tell: Callable[[str, str | None], object]) -> int:
        for key, record in self._records.items():
            if record.expires_at <= self._clock():
                tell(key, record.user)
        return await super().purge(limit)


class TellsOfWipes(_Broken):
    async def wipe(self) -> None:
        self.ended = [*self._records.items()]
        await super().wipe()

    async def purge_telling(self, limit: int, tell: Callable[[str, str | None], object]) -> int:
        for key, record in self.ended:
            tell(key, record.user)
        return await super().purge_telling(limit, tell)


class FindsByPrefix(_Broken):
    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        return [(key, record) for key, record in self._records.items() if (record.user or "").startswith(user)]


class FindsOnlyOne(_Broken):
    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        return (await super().of_user(user))[:1]


class ListsThenLoads(_Broken):
    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        await asyncio.sleep(0)
        await super().rotate(key, new_key, record, tombstone, version=version)

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        keys = [key for key, _ in await super().of_user(user)]
        await asyncio.sleep(0)  # as long as a round trip takes
        found = [(key, await self.load(key)) for key in keys]
        return [(key, record) for key, record in found if record is not None and record.successor is None]


class FindsTheEnded(_Broken):
    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        return [(key, record) for key, record in self._records.items() if record.user == user]


class ForgetsWhoLoggedIn(_Broken):
    def _put(self, key: str, record: Record) -> None:
        known = key in self._records
        super()._put(key, record)
        if known and record.user is not None:
            self._of_user[record.user].discard(key)


class IndexExpiresAlone(_Broken):
    """Its index keeps the expiry that the record was put with."""

    def _put(self, key: str, record: Record) -> None:
        super()._put(key, record)
        self._expiry = {**getattr(self, "_expiry", {}), key: record.expires_at}

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        return [found for found in await super().of_user(user) if self._expiry[found[0]] > self._clock()]


class _WithLifespan(_Broken):
    opened = False

    async def open(self) -> None:
        self.opened = True

    async def close(self) -> None:
        self.opened = False


class ClosesOnce(_WithLifespan):
    closed = False

    async def close(self) -> None:
        assert not self.closed, "closed already"
        self.closed = True


class OpensOnce(_WithLifespan):
    closed = False

    async def close(self) -> None:
        self.closed = True

    async def open(self) -> None:
        assert not self.closed, "closed for good"


class NeedsOpen(_WithLifespan):
    async def load(self, key: str) -> Record | None:
        assert self.opened, "not open"
        return await super().load(key)


class ScansOneBatch(_Broken):
    async def scan(self, limit: int, after: str = "") -> tuple[list[str], str]:
        keys, _ = await super().scan(limit, after)
        return keys, ""


class ScansByPlace(_Broken):
    async def scan(self, limit: int, after: str = "") -> tuple[list[str], str]:
        start = int(after or 0)
        keys = sorted(self._records)[start : start + limit]
        return keys, str(start + limit) if len(keys) == limit else ""


class WipesTheLoggedInOnly(_Broken):
    async def wipe(self) -> None:
        for key, record in list(self._records.items()):
            if record.user is not None:
                self._drop(key)


class StaysWiped(_Broken):
    wiped = False

    async def wipe(self) -> None:
        self.wiped = True
        await super().wipe()

    async def load(self, key: str) -> Record | None:
        return None if self.wiped else await super().load(key)


FAULTS: list[tuple[Callable[..., Store], str]] = [
    (ReturnsAnEmptyRecord, "test_load_of_a_missing_key"),
    (NeverExpires, "test_load_of_an_expired_record"),
    (ExpiresTooLate, "test_load_at_the_moment_of_expiry"),
    (HidesTombstones, "test_load_of_a_tombstone"),
    (KeepsTombstones, "test_load_of_an_expired_tombstone"),
    (CutsKeys, "test_keys_are_told_apart"),
    (LosesTheClient, "test_create_keeps_every_field"),
    (EmptyBecomesNone, "test_create_keeps_absent_fields_absent"),
    (CutsAtNUL, "test_create_keeps_every_byte"),
    (OnlyLatin, "test_create_keeps_every_character"),
    (CreateOverwrites, "test_create_never_overwrites"),
    (CreateOverwritesTombstones, "test_create_never_overwrites_a_tombstone"),
    (ExpiredKeysStayTaken, "test_create_replaces_an_expired_record"),
    (UpdatesDataOnly, "test_update_replaces_every_field"),
    (UpdateNeverShortens, "test_update_may_shorten"),
    (UpdatesDataOnly, "test_update_may_prolong"),
    (IgnoresVersions, "test_update_of_another_version"),
    (Upserts, "test_update_of_a_missing_record"),
    (Upserts, "test_update_of_a_deleted_record"),
    (RevivesOnUpdate, "test_update_of_an_expired_record"),
    (UpdatesTombstones, "test_update_of_a_tombstone"),
    (RefusesThePast, "test_update_into_the_past"),
    (UpdateNeverShortens, "test_update_into_the_past"),
    (LeavesNoTombstone, "test_rotate_puts_both"),
    (IgnoresVersions, "test_rotate_of_another_version"),
    (RotatesInTwoSteps, "test_rotate_of_another_version"),
    (Upserts, "test_rotate_of_a_missing_record"),
    (RotatesInTwoSteps, "test_rotate_of_a_missing_record"),
    (RevivesOnUpdate, "test_rotate_of_an_expired_record"),
    (UpdatesTombstones, "test_rotate_of_a_tombstone"),
    (RotatesOldKeyFirst, "test_rotate_to_a_taken_key"),
    (CreateOverwrites, "test_create_never_overwrites"),
    (ExpiredKeysStayTaken, "test_rotate_to_an_expired_key"),
    (TouchDoesNothing, "test_touch_prolongs"),
    (TouchShortens, "test_touch_never_shortens"),
    (TouchRevives, "test_touch_never_revives"),
    (TouchAlwaysSaysYes, "test_touch_of_a_missing_record"),
    (TouchRevives, "test_touch_of_a_tombstone"),
    (DeleteDoesNothing, "test_delete_removes"),
    (DeleteSparesTombstones, "test_delete_removes_a_tombstone"),
    (DeleteRaisesKeyError, "test_delete_of_nothing"),
    (ComparesFirstWritesLater, "test_one_of_many_updates_wins"),
    (ComparesFirstWritesLater, "test_no_increment_is_lost"),
    (ComparesFirstWritesLater, "test_one_of_many_creates_wins"),
    (ComparesFirstWritesLater, "test_one_of_many_rotations_wins"),
    (ComparesFirstWritesLater, "test_rotation_or_update_wins"),
    (MixesUpAnswers, "test_many_at_once_get_their_own_answers"),
    (PurgesWithoutLimit, "test_purge_removes_what_expired"),
    (TellsOfTombstones, "test_a_purge_tells_which_sessions_went"),
    (TellsOfWipes, "test_a_purge_tells_nothing_of_a_wipe"),
    (FindsOnlyOne, "test_of_user_finds_their_sessions"),
    (FindsByPrefix, "test_of_user_without_sessions"),
    (FindsTheEnded, "test_of_user_leaves_out_the_ended"),
    (FindsTheEnded, "test_of_user_leaves_out_tombstones"),
    (ListsThenLoads, "test_of_user_misses_no_session_that_rotates"),
    (ForgetsWhoLoggedIn, "test_of_user_follows_the_record"),
    (IndexExpiresAlone, "test_of_user_follows_a_touch"),
    (ScansOneBatch, "test_scan_comes_to_every_key"),
    (ScansByPlace, "test_scan_misses_nothing_that_stays"),
    (WipesTheLoggedInOnly, "test_wipe_ends_every_session"),
    (StaysWiped, "test_wipe_and_go_on"),
    (StandsSecond, "test_watch_stands_first"),
    (TellsOfWhatIsStillThere, "test_watch_tells_of_a_deletion"),
    (TellsEndsAsEndsOnce, "test_watch_tells_of_an_update_that_ends"),
    (ForgetsWhereTo, "test_watch_tells_of_a_rotation"),
    (TellsEverybodyOfChanges, "test_watch_tells_of_a_change"),
    (TellsOfOneWiped, "test_watch_tells_of_a_wipe"),
    (TellsThoseWhoLeft, "test_watch_tells_everybody"),
    (ClosesOnce, "test_open_and_close_twice"),
    (OpensOnce, "test_open_after_close"),
    (NeedsOpen, "test_use_without_open"),
]


def _suite(store: Callable[..., Store]) -> Any:
    class Suite(StoreContract):
        async def make(self, clock: Clock) -> Store:
            return store(clock=clock)

    return Suite()


@pytest.mark.parametrize(("store", "test"), FAULTS, ids=lambda item: getattr(item, "__name__", item))
def test_the_suite_finds_the_fault(store: Callable[..., Store], test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test fails on the store that has its fault, and not by accident: on a store without it, it passes."""
    monkeypatch.setattr(watching, "_PATIENCE", 1.0)  # what never comes fails the test then
    with pytest.raises((AssertionError, Conflict, KeyError, ValueError, TimeoutError)):
        getattr(_suite(store), test)()
    monkeypatch.undo()
    getattr(_suite(_WithLifespan), test)()


def test_every_test_has_a_fault() -> None:
    """A test that is added to the suite has to show that it can fail."""
    assert {test for _, test in FAULTS} == {name for name in dir(StoreContract) if name.startswith("test_")}
