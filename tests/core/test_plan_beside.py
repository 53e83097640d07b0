"""What `roomkey.core.plan` decides beside its table: renewals, late responses, sessions that move in, refusals."""

import pytest

from roomkey.core.case import Step
from roomkey.core.loaded import NOWHERE, Stale, unfiled
from roomkey.core.reply import GIVE, KEEP
from roomkey.core.tombstones import Kind
from roomkey.errors import ResponseStarted, SessionDataError
from roomkey.wire import codec
from roomkey.wire.codec import NO_FACTS
from tests.core.cases import (
    ANNS,
    CLIENT,
    DUE,
    FRESH,
    IDLE,
    LATER,
    LOGGED_IN,
    MOVED_ON,
    NEW_KEY,
    NEWER,
    NOBODYS,
    NOW,
    PASSED_ON,
    case,
    decide,
    loaded,
    rules,
    stored_by,
)
from tests.core.plans import (
    ANNS_BOTH,
    BOTH,
    KEEPS,
    LATER_LOGIN,
    LOSES,
    RENEWS,
    THEIRS,
    UNSEEN_UNTIL,
    UNTIL,
    begins_anns,
    changes,
    clears,
    counts,
    empties,
    ends,
    invalidates_and_goes_on,
    invalidates_and_logs_in,
    leaves,
    logs_ann_in,
    logs_bob_in,
    logs_in_anew,
    proves,
    rotates_anns,
    rotates_it,
    saves,
    shown,
)

CHANGED_UNSEEN = saves({**KEEPS, "cart": 2, **THEIRS}, shows={**KEEPS, "cart": 2}, **LATER_LOGIN)
REMEMBERED = loaded(
    {**KEEPS, "user_id": "ann"}, version=4, authenticated_at=LATER, lifetime=2 * IDLE, expires_at=NOW + 2 * IDLE - 50
)

# --- renewals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expires_at", "until"), [(DUE, UNTIL), (UNTIL + 5, UNTIL + 5)], ids=["due", "another server's clock is ahead"]
)
def test_a_session_that_is_used_is_renewed(expires_at, until):
    """Nothing but its expiry changes, and the cookie goes out anew; a renewal never shortens."""
    was = loaded(KEEPS, expires_at=expires_at)
    assert shown(decide(case(was, lambda session: None))) == RENEWS | {"expires_at": until}


def test_a_renewal_under_a_limit_counts_as_a_version():
    """A log-in that has just ranked the user's sessions notices it."""
    step = decide(case(loaded(KEEPS, expires_at=DUE), lambda session: None), rules(max_sessions_per_user=3))
    assert shown(step) == RENEWS | {"version": 4}


@pytest.mark.parametrize("session_id", [b"i" * 32, None], ids=["too late", "another response has the cookie"])
def test_a_renewal_without_its_cookie(session_id):
    """The session is kept for a little less long, so that a renewal with the cookie stays due."""
    was = loaded(KEEPS, expires_at=DUE, session_id=session_id)
    step = decide(case(was, lambda session: None, can_set_cookie=session_id is None))
    assert shown(step) == RENEWS | {"expires_at": UNSEEN_UNTIL, "cookie": KEEP}


def test_a_save_renews_where_that_is_due():
    """Once for both, and the cookie goes out."""
    step = decide(case(loaded(KEEPS, expires_at=DUE), changes))
    assert shown(step) == saves({**KEEPS, "cart": 2}, expires_at=UNTIL, cookie=GIVE)


@pytest.mark.parametrize("fresh", [NEWER, MOVED_ON], ids=["newer", "moved on"])
@pytest.mark.parametrize("due", [False, True])
def test_a_stream_keeps_alive_what_others_have_saved(fresh, due):
    """It takes in what they saved, and renews it where that is due, without its cookie."""
    fresh = fresh._replace(record=loaded(BOTH, version=5, expires_at=DUE if due else FRESH).record)
    one = case(loaded(KEEPS, expires_at=DUE), lambda session: None, can_set_cookie=False)
    step = decide(one._replace(fresh=fresh))
    assert step.step is (Step.RENEW if due else Step.NOTHING)
    assert step.over is fresh and step.content == BOTH and step.cookie is KEEP
    assert (step.record.version, step.record.expires_at) == (5, UNSEEN_UNTIL if due else FRESH)


@pytest.mark.parametrize("fresh", [PASSED_ON, None], ids=["somebody logged in", "gone"])
def test_a_stream_loses_what_is_not_its_own_any_more(fresh):
    """It renews nobody else's session."""
    one = case(loaded(KEEPS, expires_at=DUE), lambda session: None, can_set_cookie=False)
    assert shown(decide(one._replace(fresh=fresh))) == LOSES


@pytest.mark.parametrize(
    ("was", "fresh"),
    [
        (ANNS, loaded(ANNS_BOTH, version=5, lifetime=2 * IDLE, expires_at=NOW + 2 * IDLE - 50)),
        (NOBODYS, PASSED_ON._replace(facts=REMEMBERED.facts, encoded=REMEMBERED.encoded, record=REMEMBERED.record)),
    ],
    ids=["another request", "somebody who logged in"],
)
def test_how_long_another_one_said_that_the_session_lives(was, fresh):
    """A save by a request from before does not shorten it, and renews it where that is due and no sooner."""
    step = decide(case(was, changes)._replace(fresh=fresh))
    assert (step.step, step.facts.lifetime, step.record.expires_at) == (Step.SAVE, 2 * IDLE, fresh.record.expires_at)
    assert step.cookie is KEEP


@pytest.mark.parametrize("stale", [Stale.CARD, Stale.DATA])
def test_what_was_made_with_an_old_key_is_made_anew(stale):
    """A card is signed again by a renewal, and data sealed again by a save; a change gives the card as well."""
    was = loaded(KEEPS, stale=stale)
    kept = decide(case(was, lambda session: None))
    assert (kept.step, kept.cookie) == (Step.RENEW if stale is Stale.CARD else Step.SAVE, GIVE)
    changed = decide(case(was, changes))
    assert (changed.step, changed.cookie, changed.record.expires_at) == (Step.SAVE, GIVE, FRESH)


# --- where no cookie can go out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "act", "what"),
    [
        (NOWHERE, changes, "a new session"),
        (NOBODYS, logs_ann_in, "a rotated session"),
        (ANNS, logs_bob_in, "a rotated session"),
        (ANNS, leaves, "a rotated session"),
        (ANNS, logs_in_anew, "a rotated session"),
        (ANNS, proves, "a rotated session"),
        (NOBODYS, rotates_it, "a rotated session"),
        (ANNS, lambda session: session.remember(IDLE / 2), "a shorter life"),
        (ANNS, invalidates_and_goes_on, "a new session"),
        (ANNS, invalidates_and_logs_in, "a new session"),
    ],
)
def test_what_needs_a_cookie_says_so(was, act, what):
    """Nothing is decided that the browser could not know of; the error names what needs it."""
    with pytest.raises(ResponseStarted, match=f"^{what} needs a cookie"):
        decide(case(was, act, can_set_cookie=False))


@pytest.mark.parametrize("fresh", [None, PASSED_ON], ids=["gone", "another user's"])
def test_a_log_in_of_its_own_needs_a_cookie(fresh):
    """What stands on its own begins a session, and is refused as one."""
    one = case(NOBODYS, logs_bob_in, can_set_cookie=False)
    with pytest.raises(ResponseStarted, match=r"^a new session needs a cookie"):
        decide(one._replace(fresh=fresh))


@pytest.mark.parametrize(
    ("was", "act", "fresh", "expected"),
    [
        (NOBODYS, changes, NOBODYS, saves({**KEEPS, "cart": 2})),
        (loaded(KEEPS, expires_at=DUE), changes, "was", saves({**KEEPS, "cart": 2}, expires_at=UNSEEN_UNTIL)),
        (NOBODYS, changes, PASSED_ON, CHANGED_UNSEEN),
        (NOBODYS, clears, NOBODYS, ends(cookie=KEEP)),
        (NOBODYS, clears, NEWER, ends(cookie=KEEP, shows={})),
        (NOBODYS, empties, loaded(KEEPS, version=5), ends(cookie=KEEP, shows={})),
        (
            NOBODYS,
            lambda session: session.remember(2 * IDLE),
            NOBODYS,
            saves(KEEPS, lifetime=2 * IDLE, expires_at=NOW + 2 * 0.89 * IDLE),
        ),
        (NOBODYS, rotates_it, PASSED_ON, CHANGED_UNSEEN),
        (NOBODYS, rotates_it, None, LOSES),
    ],
)
def test_what_needs_no_cookie_is_done(was, act, fresh, expected):
    """A stream saves, prolongs and ends its session all the same, and says nothing to the browser."""
    one = case(was, act, can_set_cookie=False)
    assert shown(decide(one if fresh == "was" else one._replace(fresh=fresh))) == expected


# --- an old library's session moves in --------------------------------------------------------------------------------

OLD = loaded({"cart": 1, "user_id": "ann"}, version=2, session_id=None, authenticated_at=None)


@pytest.mark.parametrize("act", [lambda session: None, changes], ids=["keeps it", "changes it"])
def test_an_old_session_moves_in(act):
    """It gets an ID of its own, and the old cookie is served for a moment, for requests that were sent with it."""
    step = decide(case(OLD, act, moves_in=True))
    expected = rotates_anns(
        {"cart": 2 if act is changes else 1, "user_id": "ann"},
        Kind.MOVED,
        serves=10,
        version=3,
        about=CLIENT,
        authenticated_at=None,
    )
    assert shown(step) == expected


@pytest.mark.parametrize("seals", [False, True])
def test_the_way_from_an_old_cookie(seals):
    """To a sealed session it stays for a minute and no longer: whoever knows the old cookie might follow it."""
    step = decide(case(OLD, changes, moves_in=True), rules(seal=seals))
    assert step.tombstone.expires_at == (NOW + 60 if seals else UNTIL)


def test_an_old_session_that_another_request_moved_in():
    """That response carries the cookie: this one saves what it changed, and gives none."""
    moved = loaded({"cart": 1, "user_id": "ann", "theirs": 2}, key=NEW_KEY, version=4, session_id=None)
    step = decide(case(OLD, changes, moves_in=True)._replace(fresh=moved))
    assert (step.step, step.over, step.cookie) == (Step.SAVE, moved, KEEP)
    assert stored_by(step) == {"cart": 2, "user_id": "ann", "theirs": 2}


@pytest.mark.parametrize(
    ("act", "kind"),
    [(lambda session: session.rotate(60), Kind.CLOCK), (logs_bob_in, Kind.LOGIN), (proves, Kind.REAUTHENTICATED)],
)
def test_what_counts_for_more_than_moving_in(act, kind):
    """The old cookie of a session that rotates or changes hands as it moves in serves as that says."""
    step = decide(case(OLD, act, moves_in=True))
    assert step.step is Step.ROTATE and step.tombstone.data[0] == kind
    assert step.tombstone.serve_until == NOW + (60 if kind is Kind.CLOCK else 0)


def test_an_old_session_that_no_store_keeps():
    """Under `cookie://` it begins with its content, its facts and its user."""
    was = unfiled(codec.encode({"cart": 1, "user_id": "ann"}), codec.make_facts(LOGGED_IN, None), "ann")
    step = decide(case(was, changes))
    assert shown(step) == begins_anns({"cart": 2, "user_id": "ann"}, authenticated_at=LOGGED_IN)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("was", [NOWHERE, NOBODYS, ANNS], ids=["new", "nobody's", "ann's"])
@pytest.mark.parametrize("user", [True, 1.5, "a\0b"], ids=repr)
def test_what_is_no_user_is_refused(was, user):
    """Two users must never be the same text."""
    with pytest.raises(SessionDataError, match="user_id"):
        decide(case(was, lambda session: session.update(user_id=user)))


@pytest.mark.parametrize("was", [NOWHERE, NOBODYS, ANNS], ids=["new", "nobody's", "ann's"])
@pytest.mark.parametrize("act", [changes, logs_bob_in, rotates_it, invalidates_and_logs_in])
def test_what_is_too_large_is_refused(was, act):
    """Before anything is ended or changed; the error names the largest key."""
    with pytest.raises(SessionDataError, match="largest key is 'large'"):
        decide(case(was, lambda session: (act(session), session.update(large="x" * 300))), rules(max_bytes=256))


def test_a_function_that_raises_on_what_is_fresh():
    """What it raises comes out: nothing is decided."""
    one = case(NOBODYS, lambda session: session.change("cart", lambda cart: 1 // (cart - 5) + 1))
    with pytest.raises(ZeroDivisionError):
        decide(one._replace(fresh=loaded({**KEEPS, "cart": 5}, version=5)))


def test_facts_stay_with_marks():
    """The marks of earlier writes are carried on by saves, merges and rotations; a new one is put behind them."""
    was, fresh = loaded(KEEPS, marks=b"first-"), loaded(BOTH, version=5, marks=b"first-second")
    for act in (counts, logs_ann_in, rotates_it, lambda session: session.remember(2 * IDLE)):
        for at, marks in ((was, b"first-"), (fresh, b"first-second")):
            assert decide(case(was, act)._replace(fresh=at)).facts.marks == marks
            assert decide(case(was, act, mark=b"mymark")._replace(fresh=at)).facts.marks == marks + b"mymark"


def test_no_facts_of_a_session_are_another_ones():
    """A session that begins has no mark of the one that ended."""
    step = decide(case(loaded(KEEPS, marks=b"first-"), invalidates_and_goes_on, mark=b"mymark"))
    assert step.then.facts == NO_FACTS
