"""A store that does not say whether it did what it was asked: nothing counts twice, and nothing is lost unnoticed."""

import asyncio
import contextlib
import functools
import inspect

import pytest

from roomkey import StoreUnavailable
from roomkey.wire.codec import MOST_MARKS
from tests.core.unsure import Browser

SCRIPTS = [
    ["done"],
    ["lost"],
    ["late"],
    ["overtakes"],
    ["done", "done"],
    ["done", "lost"],
    ["lost", "done"],
    ["lost", "lost"],
    ["late", "lost"],
    ["late", "done"],
    ["overtakes", "lost"],
    ["lost", "late"],
    ["lost", "overtakes"],
    ["lost", "lost", "done"],
]


def scripted(test):
    """Run a test with each of the scripts."""
    inner = inspect.signature(test)

    @functools.wraps(test)
    async def runs(**arguments):
        for script in SCRIPTS:
            try:
                await test(script=script, **arguments)
            except BaseException as error:
                error.add_note(f"the store's script was {script}")
                raise

    runs.__signature__ = inner.replace(parameters=[each for name, each in inner.parameters.items() if name != "script"])
    return runs


WAITS = pytest.mark.parametrize("waits", [False, True], ids=["never waits", "waits"])
START = {"x": 0, "n": 0}


def nothing(session):
    pass


def plain(session):
    session["y"] = 5


def counts(session):
    session.change("n", lambda n: n + 100, default=0)


def rotates(session):
    session.rotate()


def rotates_and_counts(session):
    rotates(session)
    counts(session)


OTHERS = {
    "nobody else": (nothing, {}),
    "plain": (plain, {"y": 5}),
    "change": (counts, {"n": 100}),
    "rotates": (rotates, {}),
    "rotates, and change": (rotates_and_counts, {"n": 100}),
}


def sets(session):
    session["x"] = 1


def sets_back(session):
    session["x"] = 0


def deletes(session):
    del session["x"]


def adds(session):
    session.change("n", lambda n: n + 1, default=0)


def logs_in(session):
    session["user_id"] = 7


def both(session):
    sets(session)
    adds(session)


def logs_in_and_adds(session):
    logs_in(session)
    adds(session)


def rotates_and_sets(session):
    rotates(session)
    sets(session)


# What the request does, what it does after the first save that was not answered, and what there is in the end.
ACTS = {
    "a value": (sets, nothing, {"x": 1, "n": 0}),
    "a value that is set back": (sets, sets_back, START),
    "a value, and another one": (sets, lambda s: s.update(x=2), {"x": 2, "n": 0}),
    "a key that goes": (deletes, nothing, {"n": 0}),
    "a key that goes and comes back": (deletes, sets_back, START),
    "a key that comes and goes": (lambda s: s.update(z=1), lambda s: s.pop("z"), START),
    "change": (adds, nothing, {"x": 0, "n": 1}),
    "change, and again": (adds, adds, {"x": 0, "n": 2}),
    "change, and a value": (adds, sets, {"x": 1, "n": 1}),
    "a value, and change": (sets, adds, {"x": 1, "n": 1}),
    "both at once": (both, nothing, {"x": 1, "n": 1}),
    "rotate": (rotates, nothing, START),
    "rotate, and a value": (rotates_and_sets, nothing, {"x": 1, "n": 0}),
    "rotate, and change": (rotates, adds, {"x": 0, "n": 1}),
    "change, and rotate": (adds, rotates, {"x": 0, "n": 1}),
    "log-in": (logs_in, nothing, {**START, "user_id": 7}),
    "log-in, and change": (logs_in, adds, {"x": 0, "n": 1, "user_id": 7}),
    "log-in with change": (logs_in_and_adds, nothing, {"x": 0, "n": 1, "user_id": 7}),
    "change, and log-in": (adds, logs_in, {"x": 0, "n": 1, "user_id": 7}),
    "remember": (lambda s: s.remember(10**6), nothing, START),
    "remember for less long": (lambda s: s.remember(60), adds, {"x": 0, "n": 1}),
}


async def until_answered(browser, session):
    """Save until it is answered."""
    while await browser.fails_to_save(session):
        pass
    browser.store.script = []  # what is left of it was for a save that was not needed any more


async def answered_at_last(browser, session):
    """Answer the request once a save was answered, and let what is still under way arrive."""
    await until_answered(browser, session)
    await browser.answer(session)
    await browser.store.arrive()


async def assert_both_are_kept(browser, session, mine, theirs):
    """What this request did once, and what the other one did."""
    expected = {**mine, **theirs, "n": mine["n"] + theirs.get("n", 0)}
    assert browser.store.live() == [expected]
    assert await browser.sees() == expected
    assert session.copy() == expected


@WAITS
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("act", ACTS)
@scripted
async def test_a_save_that_was_not_answered(act, script, other, waits):
    """The handler tries again until it is answered; a request beside it, under way since before, saves in between."""
    first, then, expected = ACTS[act]
    browser = Browser(waits=waits)
    await browser.begin(**START)
    session, beside = await browser.load(), await browser.load()
    first(session)
    browser.store.script = list(script)
    assert await browser.fails_to_save(session)
    beside_acts, theirs = OTHERS[other]
    await browser.other_saves(beside, beside_acts)
    then(session)
    await answered_at_last(browser, session)
    await assert_both_are_kept(browser, session, expected, theirs)


@WAITS
@pytest.mark.parametrize("other", ["plain", "change", "rotates", "rotates, and change"])
@pytest.mark.parametrize("act", ACTS)
@scripted
async def test_a_merge_that_was_not_answered(act, script, other, waits):
    """The other request has saved before, so that the first try that is not answered is a second one already."""
    first, then, expected = ACTS[act]
    browser = Browser(waits=waits)
    await browser.begin(**START)
    session, beside = await browser.load(), await browser.load()
    beside_acts, theirs = OTHERS[other]
    await browser.other_saves(beside, beside_acts)
    first(session)
    browser.store.script = list(script)
    assert await browser.fails_to_save(session)
    then(session)
    await answered_at_last(browser, session)
    await assert_both_are_kept(browser, session, expected, theirs)


@WAITS
@pytest.mark.parametrize(
    "then",
    [nothing, adds, sets, logs_in, lambda session: session.clear()],
    ids=["nothing", "change", "a value", "log-in", "log-out"],
)
@scripted
async def test_a_new_session_that_was_not_answered(script, then, waits):
    """There is one session in the end, and the browser has its cookie."""
    browser = Browser(waits=waits)
    session = await browser.load()
    session.update(START)
    browser.store.script = list(script)
    assert await browser.fails_to_save(session)
    then(session)
    await answered_at_last(browser, session)
    left = session.copy()
    if left:  # else one may be there that arrived late, whose ID nobody knows
        assert browser.store.live() == [left]
    assert await browser.sees() == (left or None)


# --- what ends --------------------------------------------------------------------------------------------------------


@WAITS
@pytest.mark.parametrize("user", [None, 7])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("answered", [0, 1], ids=["the swap", "what follows it"])
@pytest.mark.parametrize("how", ["clear", "invalidate"])
@scripted
async def test_a_log_out_that_was_not_answered(how, script, answered, other, user, waits):
    """The session has ended once the log-out is answered, whatever was saved in between, and stays so."""
    browser = Browser(waits=waits)
    await browser.begin(**START, **({} if user is None else {"user_id": user}))
    card = browser.cookie
    session, beside = await browser.load(), await browser.load()
    getattr(session, how)()
    browser.store.script = ["answers"] * answered + list(script)
    assert await browser.fails_to_save(session)
    await browser.other_saves(beside, OTHERS[other][0])
    await answered_at_last(browser, session)
    assert browser.store.live() == [] and session.copy() == {}
    assert await browser.sees() is None
    browser.cookie = card
    assert await browser.sees() is None


@WAITS
@pytest.mark.parametrize("new", [{"new": 1}, {"new": 1, "user_id": 7}], ids=["nobody's", "a log-in"])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("answered", [0, 1, 2], ids=["the swap", "what follows it", "what begins"])
@scripted
async def test_an_end_and_a_beginning_that_were_not_answered(script, answered, other, new, waits):
    """The old session has ended, one has begun, and the browser has its cookie."""
    browser = Browser(waits=waits)
    await browser.begin(**START)
    card = browser.cookie
    session, beside = await browser.load(), await browser.load()
    session.invalidate()
    session.update(new)
    browser.store.script = ["answers"] * answered + list(script)
    assert await browser.fails_to_save(session)
    await browser.other_saves(beside, OTHERS[other][0])
    await answered_at_last(browser, session)
    assert browser.store.live() == [new]
    assert await browser.sees() == new
    browser.cookie = card
    assert await browser.sees() is None


@WAITS
@pytest.mark.parametrize("other", OTHERS)
@scripted
async def test_another_users_log_in_that_was_not_answered(script, other, waits):
    """What the user before had, or still saves, is not in the session of the next one."""
    browser = Browser(waits=waits)
    await browser.begin(**START, user_id=7)
    session, beside = await browser.load(), await browser.load()
    session["user_id"] = 8
    session.change("mine", lambda n: n + 1, default=0)
    browser.store.script = list(script)
    assert await browser.fails_to_save(session)
    await browser.other_saves(beside, OTHERS[other][0])
    await answered_at_last(browser, session)
    assert browser.store.live() == [{"user_id": 8, "mine": 1}]
    assert await browser.sees() == {"user_id": 8, "mine": 1}


# --- messages ---------------------------------------------------------------------------------------------------------


@WAITS
@pytest.mark.parametrize("leaves_more", [False, True])
@scripted
async def test_messages_whose_taking_was_not_answered(script, leaves_more, waits):
    """Each is handed out once; those that another request leaves meanwhile wait, or come with them, and once too."""
    browser = Browser(waits=waits)
    await browser.begin(_flashes=[("info", "one"), ("info", "two")], n=0)
    session, beside = await browser.load(), await browser.load()
    browser.store.script = list(script)
    with pytest.raises(StoreUnavailable):
        await session.flashes()
    if leaves_more:
        await browser.other_saves(beside, lambda other: other.flash("three"))
    taken = []
    while not taken:
        with contextlib.suppress(StoreUnavailable):
            taken += await session.flashes()
    browser.store.script = []
    await browser.answer(session)
    await browser.store.arrive()
    last = await browser.load()
    taken += await last.flashes()
    assert sorted(taken) == sorted([("info", each) for each in ("one", "two", *["three"] * leaves_more)])
    await browser.answer(last)
    assert browser.store.live() == [{"_flashes": [], "n": 0}]


@WAITS
@pytest.mark.parametrize("other", OTHERS)
@scripted
async def test_a_message_whose_leaving_was_not_answered(script, other, waits):
    """It is left once."""
    browser = Browser(waits=waits)
    await browser.begin(**START)
    session, beside = await browser.load(), await browser.load()
    session.flash("one")
    browser.store.script = list(script)
    assert await browser.fails_to_save(session)
    await browser.other_saves(beside, OTHERS[other][0])
    await answered_at_last(browser, session)
    assert (await browser.sees())["_flashes"] == [("info", "one")]


# --- what cannot be known any more ------------------------------------------------------------------------------------


@WAITS
@pytest.mark.parametrize("others", [1, MOST_MARKS - 1, MOST_MARKS, MOST_MARKS + 1, 3 * MOST_MARKS])
@pytest.mark.parametrize("mode", ["done", "lost", "late", "overtakes"])
async def test_many_that_count_in_between(mode, others, waits):
    """Where too many came since to know whether it counted, it is not counted again: the save is refused."""
    browser = Browser(waits=waits)
    await browser.begin(n=0)
    session = await browser.load()
    adds(session)
    browser.store.script = [mode]
    assert await browser.fails_to_save(session)
    for _ in range(others):
        with browser.store.sure():
            beside = await browser.load()
            counts(beside)
            await browser.answer(beside)
    is_known = others + (mode == "done") <= MOST_MARKS
    for _ in range(3):
        assert await browser.fails_to_save(session) is not is_known
        (content,) = browser.store.live()
        assert content["n"] - 100 * others == (is_known or mode == "done")
    await browser.store.arrive()
    assert browser.store.live() == [content]


@WAITS
@pytest.mark.parametrize("others", [1, MOST_MARKS + 1, 3 * MOST_MARKS])
@pytest.mark.parametrize("mode", ["done", "lost"])
async def test_many_that_count_in_between_two_assignments(mode, others, waits):
    """To assign twice is to assign once: that is never refused."""
    browser = Browser(waits=waits)
    await browser.begin(n=0, x=0)
    session = await browser.load()
    sets(session)
    browser.store.script = [mode]
    assert await browser.fails_to_save(session)
    for _ in range(others):
        with browser.store.sure():
            beside = await browser.load()
            counts(beside)
            await browser.answer(beside)
    assert not await browser.fails_to_save(session)
    assert browser.store.live() == [{"n": 100 * others, "x": 1}]


# --- requests that save together --------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [2, 5])
@scripted
async def test_requests_whose_common_save_was_not_answered(script, many):
    """Each of them tries again, and each counts once; what each one assigned is there."""
    browser = Browser(waits=True)
    await browser.begin(n=0)
    sessions = [await browser.load() for _ in range(many)]
    browser.store.script = ["answers", *script]

    async def save(number, session):
        adds(session)
        session[f"x{number}"] = number
        while await browser.fails_to_save(session):
            await asyncio.sleep(0)
        await browser.answer(session)

    await asyncio.gather(*(save(number, session) for number, session in enumerate(sessions)))
    await browser.store.arrive()
    assert browser.store.live() == [{"n": many, **{f"x{number}": number for number in range(many)}}]


# --- the response -----------------------------------------------------------------------------------------------------


@WAITS
@pytest.mark.parametrize("act", ["a value", "change", "both at once", "rotate", "log-in", "log-in with change"])
@scripted
async def test_a_response_that_was_not_answered(act, script, waits):
    """`commit` raises, and another request of the browser goes on with what is there: nothing counts twice."""
    first, _, expected = ACTS[act]
    browser = Browser(waits=waits)
    await browser.begin(**START)
    session = await browser.load()
    first(session)
    browser.store.script = list(script)
    with pytest.raises(StoreUnavailable):
        await browser.answer(session)
    await browser.answer(session, status=503)  # saves nothing more
    browser.store.script = []
    await browser.store.arrive()
    (content,) = browser.store.live()
    assert content in (START, expected)
    sees = await browser.sees()
    assert sees in (content, None)  # the ID may have changed, and nobody knew
    if act in ("a value", "change", "both at once"):
        assert sees == content
