"""What a request costs the store, when a session is renewed, how saves are merged, and `save` and `refresh`."""

import asyncio
from dataclasses import replace

import pytest

from roomkey.core.reply import Cookie
from roomkey.errors import ResponseStarted, SessionDataError, SessionEnded, StoreUnavailable
from tests.world import MAX_AGE, START, World

# --- store operations -------------------------------------------------------------------------------------------------


async def test_read_costs_one_load():
    """A request that only reads costs one load and sends no cookie."""
    world = World()
    visit = await world.arrive(await world.begin(x=1))
    assert visit.session["x"] == 1
    await visit.commit()
    assert world.store.asked == {"load": 1}
    assert visit.cookie is Cookie.KEEP


async def test_write_costs_one_load_and_one_save():
    """A request that writes costs one load and one update."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["y"] = 2
    await visit.commit()
    assert world.store.asked == {"load": 1, "update": 1}
    assert await world.data(card) == {"x": 1, "y": 2}


async def test_anonymous_costs_nothing():
    """A request without a card that stores nothing asks the store nothing."""
    world = World()
    visit = world.life.anonymous()
    assert visit.session.get("x") is None
    await visit.commit()
    assert not world.store.asked
    assert visit.cookie is Cookie.KEEP


@pytest.mark.parametrize("place", [0, 10, -1])
async def test_forged_card_costs_nothing(place):
    """A card with one altered byte is refused without asking the store."""
    world = World()
    card = bytearray(await world.begin(x=1))
    card[place] ^= 1
    visit = await world.arrive(bytes(card))
    assert visit.record is None
    assert visit.session.copy() == {}
    await visit.commit()
    assert not world.store.asked
    assert world.life.refused["key" if 0 <= place < 4 else "card"] == 1


async def test_first_genuine_card_counts():
    """Of several cards the first one that is genuine is used."""
    world = World()
    one, two = await world.begin(x=1), await world.begin(x=2)
    visit = await world.life.arrive([b"rubbish", one, two])
    assert visit.session["x"] == 1


async def test_nested_change_is_found():
    """A change deep inside a value is saved although no key was assigned."""
    world = World()
    card = await world.begin(cart={"items": [{"n": 1}]})
    visit = await world.arrive(card)
    visit.session["cart"]["items"][0]["n"] = 2
    assert visit.session.modified
    await visit.commit()
    assert await world.data(card) == {"cart": {"items": [{"n": 2}]}}


async def test_assigning_the_same_value_is_no_write():
    """Assigning the value that is there already saves nothing."""
    world = World()
    visit = await world.arrive(await world.begin(x=[1, 2]))
    visit.session["x"] = [1, 2]
    assert not visit.session.modified
    await visit.commit()
    assert world.store.asked == {"load": 1}


async def test_equal_value_of_another_type_is_a_write():
    """True in the place of 1 is a change: values keep their exact type."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["x"] = True
    await visit.commit()
    assert (await world.data(card))["x"] is True


# --- clocks -----------------------------------------------------------------------------------------------------------


async def test_renewal_by_touch_once_in_a_tenth():
    """A session that is read is renewed by one touch, at most once in a tenth of max_age, with a fresh cookie."""
    world = World()
    card = await world.begin(x=1)
    touched = 0
    for second in range(1, 301, 10):
        world.clock.now = START + second
        visit = await world.arrive(card)
        assert visit.session["x"] == 1
        await visit.commit()
        if visit.cookie is Cookie.GIVE:
            touched += 1
            assert visit.card == card
            assert visit.record.expires_at == world.clock() + MAX_AGE
    assert world.store.asked["touch"] == touched == 2
    assert world.store.asked["update"] == 0


@pytest.mark.parametrize("act", ["write", "read", "remember"])
@pytest.mark.parametrize("every", [0.02, 0.3, 0.7])
async def test_a_stream_does_not_use_up_the_renewals_of_the_cookie(act, every):
    """It renews the session and cannot renew the cookie: a page finds its own renewal due all the same."""
    world = World()
    card = await world.begin(n=0)
    lifetime, cookie_until = MAX_AGE, world.clock() + MAX_AGE
    for number in range(200):
        world.clock.advance(MAX_AGE / 100)
        stream = await world.arrive(card)
        stream.cookie_possible = False
        if act == "write":
            stream.session["n"] = number
        elif act == "remember" and number == 3:
            lifetime = 2 * MAX_AGE
            stream.session.remember(lifetime)
        stream.session.get("n")
        await stream.commit()
        if (number + 1) % round(100 * every) == 0:
            assert world.clock() < cookie_until
            page = await world.arrive(card)
            page.session.get("n")
            await page.commit()
            if page.cookie is Cookie.GIVE:
                cookie_until = world.clock() + lifetime
            assert cookie_until - world.clock() > 0.85 * lifetime
    for _ in range(10):  # and alone it keeps the session
        world.clock.advance(lifetime * 0.75)
        stream = await world.arrive(card)
        stream.cookie_possible = False
        stream.session.get("n")
        await stream.commit()
    assert await world.data(card) is not None


async def test_untouched_session_is_not_renewed():
    """A request that never looks at its session does not prolong it."""
    world = World()
    card = await world.begin(x=1)
    world.clock.advance(MAX_AGE / 2)
    visit = await world.arrive(card)
    await visit.commit()
    assert world.store.asked == {"load": 1}
    assert visit.cookie is Cookie.KEEP
    world.clock.advance(MAX_AGE / 2)
    assert await world.data(card) is None


async def test_idle_timeout():
    """A session is there just before max_age without use has passed, and gone at that moment."""
    world = World()
    card = await world.begin(x=1)
    world.clock.advance(MAX_AGE - 1)
    assert await world.data(card) == {"x": 1}
    world.clock.advance(1)
    assert await world.data(card) is None


@pytest.mark.parametrize("deed", ["read", "write", "rotate"])
async def test_absolute_timeout_however_busy(deed):
    """The absolute timeout ends a session that is read, written or rotated all the time."""
    world = World(absolute_timeout=3 * MAX_AGE)
    card = await world.begin(n=0)
    for _ in range(14):
        world.clock.advance(MAX_AGE / 5)
        visit = await world.arrive(card)
        assert visit.record is not None
        if deed == "rotate":
            visit.session.rotate(grace=60)
        elif deed == "write":
            visit.session["n"] += 1
        else:
            assert visit.session["n"] == 0
        await visit.commit()
        assert visit.record.created_at == START
        assert visit.session.expires_at.timestamp() <= START + 3 * MAX_AGE
        card = visit.card if visit.cookie is Cookie.GIVE else card
    world.clock.now = START + 3 * MAX_AGE - 1
    assert await world.data(card) is not None
    world.clock.advance(1)
    assert await world.data(card) is None


# --- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [2, 30])
async def test_interleaved_increments_add_up(many):
    """N requests that increment one key with change() at once add N."""
    world = World()
    card = await world.begin(n=5)
    visits = [await world.arrive(card) for _ in range(many)]
    for visit in visits:
        visit.session.change("n", lambda n: n + 1)
    await asyncio.gather(*(visit.commit() for visit in visits))
    assert await world.data(card) == {"n": 5 + many}


async def test_writes_to_different_keys_are_all_kept():
    """Thirty requests that write and delete different keys at once lose nothing."""
    world = World()
    card = await world.begin(**{f"old{number}": number for number in range(30)})
    visits = [await world.arrive(card) for _ in range(30)]
    for number, visit in enumerate(visits):
        visit.session[f"new{number}"] = number
        del visit.session[f"old{number}"]
    await asyncio.gather(*(visit.commit() for visit in visits))
    assert await world.data(card) == {f"new{number}": number for number in range(30)}


async def test_assignment_beats_change():
    """A key that was changed and then assigned keeps the assigned value in a merge."""
    world = World()
    card = await world.begin(n=1)
    one, two = await world.two(card)
    one.session["n"] = 100
    await one.commit()
    two.session.change("n", lambda n: n + 1)
    two.session["n"] = 50
    await two.commit()
    assert await world.data(card) == {"n": 50}


async def test_change_with_a_mutable_default():
    """A list given as default is neither shared nor altered, and concurrent appends all arrive."""
    world = World()
    default = []
    card = await world.begin(x=1)
    visits = await world.two(card)
    for name, visit in zip("ab", visits, strict=True):

        def add(items, name=name):
            items.append(name)
            return items

        assert visit.session.change("items", add, default=default) == [name]
    for visit in visits:
        await visit.commit()
    assert await world.data(card) == {"x": 1, "items": ["a", "b"]}
    assert default == []


async def test_damage_between_load_and_merge():
    """A record that became unreadable between load and merge is StoreUnavailable and is left alone."""
    world = World()
    visit = await world.arrive(await world.begin(x=1))
    record = world.store._records[visit.key]
    damaged = replace(record, data=b"\xff rubbish", version=record.version + 1)
    world.store._records[visit.key] = damaged
    visit.session["y"] = 2
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        await visit.commit()
    assert world.store._records[visit.key] == damaged


async def test_damaged_record_on_arrival():
    """A record that cannot be read makes an anonymous visit and is counted."""
    world = World()
    card = await world.begin(x=1)
    ((key, record),) = world.store._records.items()
    world.store._records[key] = replace(record, data=b"\x01\xc1")
    assert await world.data(card) is None
    assert world.life.refused["damaged"] == 1


# --- save, refresh, and what is refused -------------------------------------------------------------------------------


async def test_save_takes_in_what_others_saved():
    """After save() the session holds what is in the store, others' keys included."""
    world = World()
    card = await world.begin(x=1)
    one, two = await world.two(card)
    one.session["one"] = 1
    await one.commit()
    two.session["two"] = 2
    await two.session.save()
    assert two.session == {"x": 1, "one": 1, "two": 2} == await world.data(card)
    assert not two.session.modified


async def test_refresh_keeps_own_changes_on_top():
    """refresh() takes in others' keys; this request's assignments and change() calls stay on top."""
    world = World()
    card = await world.begin(n=1, x=1)
    one, two = await world.two(card)
    one.session.update(n=10, x=2, y=3)
    await one.commit()
    two.session.change("n", lambda n: n + 1)
    two.session["x"] = 5
    await two.session.refresh()
    assert two.session == {"n": 11, "x": 5, "y": 3}
    await two.commit()
    assert await world.data(card) == {"n": 11, "x": 5, "y": 3}


@pytest.mark.parametrize("call", ["save", "refresh"])
async def test_save_and_refresh_of_an_ended_session(call):
    """save() and refresh() raise SessionEnded when the session was ended meanwhile, and revive nothing."""
    world = World()
    leaver, other = await world.two(await world.begin(x=1))
    leaver.session.clear()
    await leaver.commit()
    other.session["y"] = 1
    with pytest.raises(SessionEnded):
        await getattr(other.session, call)()
    assert world.live() == []


async def test_new_session_after_the_response_started():
    """A new session that can no longer get its cookie is ResponseStarted and leaves no row."""
    world = World()
    visit = world.life.anonymous()
    visit.cookie_possible = False
    visit.session["x"] = 1
    with pytest.raises(ResponseStarted):
        await visit.commit()
    assert not world.store._records


@pytest.mark.parametrize("deed", ["rotate", "log in"])
async def test_rotation_after_the_response_started(deed):
    """A rotation that can no longer get its cookie is ResponseStarted and changes nothing."""
    world = World()
    card = await world.begin(x=1)
    before = dict(world.store._records)
    visit = await world.arrive(card)
    visit.cookie_possible = False
    if deed == "rotate":
        visit.session.rotate()
    else:
        visit.session["user_id"] = "a"
    with pytest.raises(ResponseStarted):
        await visit.commit()
    assert world.store._records == before


async def test_plain_write_after_the_response_started():
    """A write that needs no cookie is saved also after the response started."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.cookie_possible = False
    world.clock.advance(MAX_AGE / 2)
    visit.session["y"] = 1
    await visit.session.save()
    assert visit.cookie is Cookie.KEEP
    assert await world.data(card) == {"x": 1, "y": 1}


@pytest.mark.parametrize("new", [True, False])
async def test_max_bytes_names_the_largest_key(new):
    """A session that is too large is refused before it is stored; the message names its largest key, no value."""
    world = World(max_bytes=200)
    if new:
        visit = world.life.anonymous()
    else:
        visit = await world.arrive(await world.begin(x=1))
    before = dict(world.store._records)
    visit.session.update(small="s" * 20, largest="v" * 300)
    with pytest.raises(SessionDataError, match="'largest'") as caught:
        await visit.commit()
    assert "vvv" not in str(caught.value)
    assert "200" in str(caught.value)
    assert world.store._records == before
