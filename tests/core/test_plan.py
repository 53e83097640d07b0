"""The table of `roomkey.core.plan`, cell by cell: no store, no loop, no clock that runs."""

import pytest

from roomkey.core.case import Step
from roomkey.core.intents import CSRF
from roomkey.core.loaded import NOWHERE
from roomkey.core.tombstones import Kind
from tests.core.cases import (
    ANNS,
    ANNS_NEWER,
    IDLE,
    LATER,
    MOVED_ON,
    NEW_KEY,
    NEWER,
    NOBODYS,
    NOW,
    PASSED_ON,
    WITH_FORMS,
    case,
    decide,
    loaded,
    stored_by,
)
from tests.core.plans import (
    ANNS_BOTH,
    ANNS_PROVED,
    BOBS,
    BOTH,
    KEEPS,
    LATER_LOGIN,
    LONGER,
    LOSES,
    LOSES_NOTHING,
    MINE,
    NOTHING,
    SHORTER,
    THEIRS,
    WITHOUT_CART,
    begins,
    begins_anns,
    changes,
    clears,
    counts,
    empties,
    ends,
    invalidates,
    invalidates_and_goes_on,
    invalidates_and_logs_in,
    leaves,
    logs_ann_in,
    logs_bob_in,
    logs_in,
    logs_in_anew,
    newer,
    proved,
    proves,
    rotates,
    rotates_anns,
    rotates_it,
    saves,
    saves_anns,
    shown,
)

ONLY_FORMS = loaded({"user_id": "ann", CSRF: ["ann", "a secret"]})


def column(was, fresh):
    """Return the name of the column that a session as it is stored now belongs to."""
    if fresh is None:
        return "gone"
    if fresh is was:
        return "as loaded"
    if fresh.user != was.user:
        return "somebody logged in meanwhile"
    return "newer" if fresh.key == was.key else "newer, moved on"


TABLE = {
    "changes it": (
        NOBODYS,
        changes,
        [
            (NOBODYS, saves({**KEEPS, "cart": 2})),
            (NEWER, newer({**BOTH, "cart": 2})),
            (MOVED_ON, newer({**BOTH, "cart": 2}, MOVED_ON)),
            (PASSED_ON, saves({**KEEPS, "cart": 2, **THEIRS}, shows={**KEEPS, "cart": 2}, **LATER_LOGIN)),
            (None, LOSES),
        ],
    ),
    "changes ann's": (
        ANNS,
        changes,
        [
            (ANNS, saves_anns({**KEEPS, "cart": 2, "user_id": "ann"})),
            (ANNS_NEWER, saves_anns({**ANNS_BOTH, "cart": 2}, version=6, shows={**ANNS_BOTH, "cart": 2})),
            (None, LOSES),
        ],
    ),
    "counts": (
        NOBODYS,
        counts,
        [
            (NOBODYS, saves({**KEEPS, "cart": 11})),
            (loaded({**KEEPS, "cart": 5}, version=5), newer({**KEEPS, "cart": 15})),
            (loaded(WITHOUT_CART, version=5), newer({**WITHOUT_CART, "cart": 10})),
            (None, LOSES),
        ],
    ),
    "logs in": (
        NOBODYS,
        logs_ann_in,
        [
            (NOBODYS, logs_in({**KEEPS, "user_id": "ann", "mine": 1})),
            (NEWER, logs_in({**ANNS_BOTH, "mine": 1}, version=6)),
            (MOVED_ON, logs_in({**ANNS_BOTH, "mine": 1}, version=6, over=NEW_KEY)),
            (PASSED_ON, logs_in({**KEEPS, **THEIRS, "mine": 1}, version=5, over=NEW_KEY, left_by="ann")),
            (None, begins_anns(MINE, shows=MINE)),
        ],
    ),
    "logs another in than did meanwhile": (
        NOBODYS,
        logs_bob_in,
        [(PASSED_ON, begins_anns(BOBS, user="bob", shows=BOBS))],
    ),
    "other user": (
        ANNS,
        logs_bob_in,
        [
            (ANNS, logs_in(BOBS, user="bob", left_by="ann")),
            (ANNS_NEWER, logs_in(BOBS, user="bob", version=6, left_by="ann")),
            (
                loaded({"user_id": "carl"}, version=5, key=NEW_KEY),
                begins_anns(BOBS, user="bob", shows=BOBS),
            ),
            (None, begins_anns(BOBS, user="bob", shows=BOBS)),
        ],
    ),
    "the same user anew": (
        ANNS,
        logs_in_anew,
        [
            (ANNS, logs_in(MINE, left_by="ann", shows=None)),
            (ANNS_NEWER, logs_in({"user_id": "ann", "mine": 1, "theirs": 2}, version=6, left_by="ann")),
            (None, begins_anns(MINE, shows=MINE)),
        ],
    ),
    "logs out, keeps the rest": (
        WITH_FORMS,
        leaves,
        [
            (WITH_FORMS, rotates({"cart": 1}, Kind.LOGIN, left_by="ann", shows={"cart": 1})),
            (ANNS_NEWER, rotates({"cart": 1}, Kind.LOGIN, version=6, left_by="ann", shows={"cart": 1})),
            # Another request has proved who she is meanwhile. Nobody's session has an ID of its own all the same.
            (
                ANNS_PROVED,
                rotates({"cart": 1}, Kind.LOGIN, version=6, created_at=LATER, left_by="ann", shows={"cart": 1}),
            ),
            (None, LOSES),
        ],
    ),
    "leaves nothing but the forms of the one who leaves": (
        ONLY_FORMS,
        leaves,
        [(ONLY_FORMS, ends(shows={})), (ANNS_NEWER, ends(shows={})), (None, LOSES)],
    ),
    "empties it": (
        NOBODYS,
        empties,
        [
            (NOBODYS, ends()),
            (NEWER, newer({"theirs": 2})),
            (loaded(KEEPS, version=5), ends(shows={})),
            (PASSED_ON, saves(THEIRS, shows={}, **LATER_LOGIN)),
            (None, LOSES_NOTHING),
        ],
    ),
    "empties ann's": (ANNS, empties, [(ANNS, ends()), (ANNS_NEWER, ends(shows={})), (None, LOSES_NOTHING)]),
    "logs out": (
        NOBODYS,
        clears,
        [
            (NOBODYS, ends()),
            (NEWER, ends(shows={})),
            (MOVED_ON, ends(shows={}, over=NEW_KEY)),
            (PASSED_ON, saves(THEIRS, shows={}, **LATER_LOGIN)),
            (None, LOSES_NOTHING),
        ],
    ),
    "logs ann out": (ANNS, clears, [(ANNS, ends()), (ANNS_NEWER, ends(shows={})), (None, LOSES_NOTHING)]),
    "invalidates": (NOBODYS, invalidates, [(NOBODYS, ends()), (NEWER, ends(shows={})), (None, LOSES_NOTHING)]),
    "invalidates, and goes on": (
        ANNS,
        invalidates_and_goes_on,
        [
            (ANNS, ends(then=begins({"mine": 1}))),
            (ANNS_NEWER, ends(shows={}, then=begins({"mine": 1}, shows={"mine": 1}))),
            (None, LOSES),
        ],
    ),
    "invalidates nobody's, and goes on": (
        NOBODYS,
        invalidates_and_goes_on,
        [
            (NOBODYS, ends(then=begins({"mine": 1}))),
            (NEWER, ends(shows={}, then=begins({"mine": 1}, shows={"mine": 1}))),
            # The cookie is that of whoever logged in, so that what was to begin does not.
            (PASSED_ON, saves(THEIRS, shows={}, is_lost=True, **LATER_LOGIN)),
            (None, LOSES),
        ],
    ),
    "invalidates, and logs in": (
        NOBODYS,
        invalidates_and_logs_in,
        [
            (NOBODYS, ends(then=begins_anns(MINE))),
            (
                NEWER,
                ends(shows={}, then=begins_anns(MINE, shows=MINE)),
            ),
            (
                PASSED_ON,
                saves(
                    THEIRS,
                    shows={},
                    then=begins_anns(MINE, shows=MINE),
                    **LATER_LOGIN,
                ),
            ),
            (None, begins_anns(MINE, shows=MINE)),
        ],
    ),
    "rotates": (
        NOBODYS,
        rotates_it,
        [
            (NOBODYS, rotates({**KEEPS, "cart": 2}, Kind.CLOCK, serves=30)),
            (NEWER, rotates({**BOTH, "cart": 2}, Kind.CLOCK, serves=30, version=6, shows={**BOTH, "cart": 2})),
            (PASSED_ON, saves({**KEEPS, "cart": 2, **THEIRS}, shows={**KEEPS, "cart": 2}, **LATER_LOGIN)),
            (None, LOSES),
        ],
    ),
    "reauthenticated": (
        ANNS,
        proves,
        [
            (ANNS, proved({**KEEPS, "user_id": "ann"})),
            (ANNS_NEWER, proved(ANNS_BOTH, version=6, shows=ANNS_BOTH)),
            (ANNS_PROVED, proved(ANNS_BOTH, version=6, shows=ANNS_BOTH)),
            (None, LOSES),
        ],
    ),
    "rotates ann's": (
        ANNS,
        lambda session: session.rotate(),
        [
            (ANNS, rotates_anns({**KEEPS, "user_id": "ann"}, Kind.CLOCK)),
            # Another request has proved who she is: its new card is not for a request from before.
            (ANNS_PROVED, saves_anns(ANNS_BOTH, version=6, shows=ANNS_BOTH, authenticated_at=LATER, created_at=LATER)),
        ],
    ),
    "remembers for longer": (
        ANNS,
        lambda session: session.remember(2 * IDLE),
        [
            (ANNS, saves_anns({**KEEPS, "user_id": "ann"}, **LONGER)),
            (ANNS_NEWER, saves_anns(ANNS_BOTH, version=6, shows=ANNS_BOTH, **LONGER)),
            (None, LOSES),
        ],
    ),
    "remembers nobody's": (
        NOBODYS,
        lambda session: session.remember(2 * IDLE),
        [
            (NOBODYS, saves(KEEPS, **LONGER)),
            (PASSED_ON, saves({**KEEPS, **THEIRS}, shows=KEEPS, **LATER_LOGIN)),  # how long is for them to say
        ],
    ),
    "remembers for less long": (
        ANNS,
        lambda session: session.remember(IDLE / 2),
        [
            (ANNS, rotates_anns({**KEEPS, "user_id": "ann"}, Kind.CLOCK, **SHORTER)),
            (ANNS_NEWER, rotates_anns(ANNS_BOTH, Kind.CLOCK, version=6, shows=ANNS_BOTH, **SHORTER)),
            (None, LOSES),
        ],
    ),
    "is marked": (
        NOBODYS,
        lambda session: session.mark_modified(),
        [(NOBODYS, saves(KEEPS)), (NEWER, newer(BOTH)), (None, LOSES)],
    ),
}


@pytest.mark.parametrize(
    ("was", "act", "fresh", "expected"),
    [
        pytest.param(was, act, fresh, expected, id=f"{row}-{column(was, fresh)}")
        for row, (was, act, cells) in TABLE.items()
        for fresh, expected in cells
    ],
)
def test_the_table(was, act, fresh, expected):
    """Each cell: what the request wants, what is stored by then, and everything that is decided on it."""
    assert shown(decide(case(was, act)._replace(fresh=fresh))) == expected


# --- a session that begins --------------------------------------------------------------------------------------------


def test_nothing_begins_of_nothing():
    """An empty session that was never saved needs nothing."""
    assert shown(decide(case(NOWHERE, lambda session: None))) == NOTHING


def test_nobodys_session_begins():
    """It has both clocks from now on, and says nothing of the client."""
    assert shown(decide(case(NOWHERE, lambda session: session.update(cart=1)))) == begins({"cart": 1})


def test_a_log_in_begins_a_session():
    """It is filed under the user, and says from where the log-in came."""
    step = decide(case(NOWHERE, logs_ann_in))
    assert shown(step) == begins_anns(MINE)


def test_a_session_begins_with_its_own_life():
    """What `remember` said counts from the first save on."""
    step = decide(case(NOWHERE, lambda session: (session.update(cart=1), session.remember(60))))
    assert shown(step) == begins({"cart": 1}, lifetime=60, expires_at=NOW + 60)


def test_forms_of_nobody_do_not_begin_with_a_log_in():
    """A token that was made before the log-in is none of the user's."""
    step = decide(case(NOWHERE, lambda session: session.update({CSRF: [None, "a secret"], "user_id": "ann"})))
    assert stored_by(step) == {"user_id": "ann"}


@pytest.mark.parametrize(("act", "begins_one"), [(changes, False), (logs_ann_in, True)])
def test_where_the_browser_may_have_a_newer_cookie(act, begins_one):
    """Only a log-in begins a session there."""
    step = decide(case(NOWHERE, act, may_begin=False))
    assert (step.step, step.is_lost) == ((Step.BEGIN, False) if begins_one else (Step.LOSE, True))


NOBODYS_ROWS = [(act, row) for row, (was, act, _) in TABLE.items() if was is NOBODYS]


@pytest.mark.parametrize("act", [act for act, _ in NOBODYS_ROWS], ids=[row for _, row in NOBODYS_ROWS])
@pytest.mark.parametrize(("now", "log_in"), [(LATER + 60, None), (NOW, NOW - 60)])
def test_a_minute_after_a_log_in_the_session_is_gone(act, now, log_in):
    """A request from before it finds nothing, whatever it wants. What the way says counts more than what is stored."""
    one = case(NOBODYS, act, now=now, log_in=log_in)
    gone = shown(decide(one._replace(fresh=None)))
    assert shown(decide(one._replace(fresh=PASSED_ON))) == gone
    assert gone["over"] != PASSED_ON.key


@pytest.mark.parametrize(("now", "log_in"), [(LATER + 59.9, None), (LATER + 3600, LATER + 3541)])
def test_until_then_its_changes_are_saved(now, log_in):
    """They go into the user's session, and nothing of it is shown."""
    step = decide(case(NOBODYS, changes, now=now, log_in=log_in)._replace(fresh=PASSED_ON))
    assert (step.step, step.unseen, stored_by(step)["user_id"]) == (Step.SAVE, True, "ann")


@pytest.mark.parametrize("moment", [None, "soon"])
def test_a_log_in_of_which_nobody_knows_when_it_was(moment):
    """In a row that others wrote, say: it may be long ago."""
    unknown = PASSED_ON._replace(facts=PASSED_ON.facts._replace(authenticated_at=None))
    step = decide(case(NOBODYS, changes, log_in=moment)._replace(fresh=unknown))
    assert (step.step, step.is_lost) == (Step.LOSE, True)
