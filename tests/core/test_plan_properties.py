"""What holds of every plan of `roomkey.core.plan`, whatever was loaded, asked and stored meanwhile."""

import copy
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from roomkey.core.case import Step
from roomkey.core.intents import CSRF, FLASHES
from roomkey.core.loaded import NOWHERE
from roomkey.errors import ResponseStarted, SessionDataError
from roomkey.wire import codec
from tests.core.cases import (
    DUE,
    FRESH,
    IDLE,
    LATER,
    LOGGED_IN,
    NEW_KEY,
    NOW,
    RULES,
    case,
    decide,
    loaded,
    rules,
    stored_by,
)

MINE = "mine"  # who wrote a value: the request itself, a user, or nobody
NAMES = st.sampled_from("xyz")
USERS = st.sampled_from([None, "ann", "bob"])
LIFETIMES = st.sampled_from([None, IDLE / 2, 2 * IDLE])


def content_of(user, names, flashes, forms):
    """Return a session of a user's, each of whose values says who wrote it."""
    data = dict.fromkeys(names, (user,))
    if flashes:
        data[FLASHES] = [("info", (user,))]
    if forms:
        data[CSRF] = [user, "a secret"]
    if user is not None:
        data["user_id"] = user
    return data


def writers(data):
    """Return who wrote what is in a session."""
    found = set()
    for key, value in (data or {}).items():
        if key == CSRF:
            found.add(value[0])
        elif key == FLASHES:
            found.update(writer for _, message in value for writer in message)
        elif key != "user_id":
            found.update(value)
    return found


def set_key(name):
    return lambda session: session.__setitem__(name, (MINE,))


def change_key(name):
    return lambda session: session.change(name, lambda value: (*value, MINE), default=())


def delete_key(name):
    return lambda session: session.pop(name, None)


ACTS = st.one_of(
    st.builds(set_key, NAMES),
    st.builds(change_key, NAMES),
    st.builds(delete_key, NAMES),
    st.sampled_from([0, 30]).map(lambda grace: lambda session: session.rotate(grace)),
    LIFETIMES.map(lambda seconds: lambda session: session.remember(seconds)),
    st.sampled_from(["ann", "bob"]).map(lambda user: lambda session: session.__setitem__("user_id", user)),
    st.sampled_from(
        [
            lambda session: session.pop("user_id", None),
            lambda session: session.clear(),
            lambda session: session.invalidate(),
            lambda session: session.reauthenticated(),
            lambda session: session.mark_modified(),
            lambda session: session.flash((MINE,)),
            lambda session: session.change(FLASHES, lambda waiting: [], default=[]),
        ]
    ),
)


class Situation(NamedTuple):
    """A case, and the names in it that the properties need."""

    case: object
    was: object
    user: str | None  # whose session it would be if nobody else had saved


@st.composite
def sessions(draw, user, **more):
    """Return a session of a user's, as it is stored."""
    data = content_of(user, draw(st.sets(NAMES)), draw(st.booleans()), draw(st.booleans()))
    return loaded(
        data,
        lifetime=draw(LIFETIMES),
        expires_at=draw(st.sampled_from([FRESH, DUE])),
        marks=draw(st.sampled_from([b"", b"first-"])),
        **more,
    )


@st.composite
def situations(draw):
    """Return a case, as the committer would ask for it, of any of the rows and columns."""
    exists = draw(st.integers(0, 5)) > 0
    was = draw(sessions(draw(USERS), session_id=draw(st.sampled_from([b"i" * 32, None])))) if exists else NOWHERE
    acts = draw(st.lists(ACTS, max_size=5))

    def act(session):
        for each in acts:
            each(session)

    is_open = draw(st.integers(0, 3)) > 0
    one = case(
        was,
        act,
        can_set_cookie=is_open,
        moves_in=exists and is_open and was.session_id is None and draw(st.booleans()),
        may_begin=exists or draw(st.booleans()),
    )
    if one.draft.intents.changes:  # as for a store that may not answer
        one = one._replace(draft=one.draft._replace(mark=b"mymark"))
    if exists:
        one = one._replace(fresh=draw(st.one_of(st.just(was), st.none(), _later(was))))
    return Situation(one, was, RULES.user_of(one.draft.content))


@st.composite
def _later(draw, was):
    """Return what another request left: the committer finds no session that was one user's, and is not any more."""
    user = draw(USERS) if was.user is None else was.user
    has_moved = user != was.user or draw(st.booleans())
    proved = LATER if user != was.user or draw(st.booleans()) else LOGGED_IN
    where = {"key": NEW_KEY, "session_id": None} if has_moved else {"session_id": was.session_id}
    version = was.record.version + draw(st.integers(1, 3))
    return draw(sessions(user, version=version, authenticated_at=proved, **where))


def outcome(one):
    """Return the plan, or the class of what was raised."""
    try:
        return decide(one)
    except Exception as error:
        return type(error)


def plans_in(one):
    """Return the plan, and what it does after that; nothing where it was refused."""
    step = outcome(one)
    if isinstance(step, type):
        return []
    return [step] if step.then is None else [step, step.then]


MANY = settings(max_examples=300)


@MANY
@given(situations())
def test_a_swap_is_over_what_is_stored_now(situation):
    """The next version of what is there, never over a tombstone, and never over what was loaded if that is old."""
    for step in plans_in(situation.case):
        assert step.record.successor is None
        if step.step in (Step.SAVE, Step.ROTATE, Step.END):
            assert step.over is situation.case.fresh and step.over.record.successor is None
        if step.step in (Step.SAVE, Step.ROTATE):
            assert step.record.version == step.over.record.version + 1
            assert (step.tombstone is not None) == (step.step is Step.ROTATE)
        if step.step is Step.RENEW:
            assert step.over is situation.case.fresh and step.record.data == step.over.record.data
            assert step.record.expires_at >= step.over.record.expires_at
        if step.tombstone is not None:
            assert step.tombstone.successor == "" and step.tombstone.user == step.over.record.user
            assert step.tombstone.version == step.record.version
            assert NOW <= step.tombstone.serve_until <= NOW + 30
            over = step.over.record
            renewed = NOW + (codec.facts_in(over.data).lifetime or IDLE)
            assert step.tombstone.expires_at == max(step.record.expires_at, over.expires_at, renewed)


@MANY
@given(situations())
def test_a_record_says_what_is_in_it(situation):
    """It is filed under the user that it holds, and lives on; its facts are those of its bytes."""
    for step in plans_in(situation.case):
        if step.step in (Step.SAVE, Step.ROTATE, Step.BEGIN):
            content = stored_by(step)
            assert content and step.record.user == RULES.user_of(content)
            assert step.record.expires_at > NOW >= step.record.created_at
            assert codec.facts_in(step.record.data) == step.facts


@MANY
@given(situations())
def test_nothing_goes_from_one_user_to_another(situation):
    """What a user's session held is in no other user's afterwards, and is shown to no other one's request."""
    was, user = situation.was, situation.user
    for step in plans_in(situation.case):
        if step.step in (Step.SAVE, Step.ROTATE, Step.BEGIN):
            owner = step.record.user
            assert writers(stored_by(step)) <= {MINE, None, was.user if owner is None else owner}
        if step.content is not None:
            assert writers(step.content) <= {MINE, None, was.user, user}
            assert step.content.get("user_id") in (None, was.user, user)


@MANY
@given(situations())
def test_the_cookie_goes_out_where_it_can(situation):
    """A new ID is given, and nothing is said to a browser that cannot hear it or whose cookie is another response's."""
    one = situation.case
    for step in plans_in(one):
        if step.step in (Step.BEGIN, Step.ROTATE):
            assert step.cookie.value == "give" and one.can_set_cookie
        if not one.can_set_cookie or step.unseen or step.step in (Step.LOSE, Step.NOTHING):
            assert step.cookie.value == "keep"


@MANY
@given(situations())
def test_the_same_case_gives_the_same_plan(situation):
    """A plan depends on its case alone, and alters nothing of it."""
    one = situation.case
    before = copy.deepcopy((one.draft.content, one.draft.put)), one.draft.encoded
    first = outcome(one)
    assert ((one.draft.content, one.draft.put), one.draft.encoded) == before
    assert outcome(one) == first


@MANY
@given(situations())
def test_a_second_try_that_finds_nothing_new(situation):
    """Over the same content it decides what the first try did, and stores the same."""
    one = situation.case._replace(fresh=situation.was)
    if one.was is NOWHERE or not (one.ends or one.user_asks):
        return
    again = one._replace(fresh=one.was._replace())
    assert again.fresh is not one.was
    first, second = outcome(one), outcome(again)
    if isinstance(first, type):
        assert second is first
        return
    assert _deciding(second) == _deciding(first)


def _deciding(step):
    """Return what a plan decides, whatever the order of the keys."""
    if step is None:
        return None
    record, facts = step.record, step.facts
    return (
        step.step,
        stored_by(step),
        (record.version, record.created_at, record.expires_at, record.user, record.about),
        facts,
        step.cookie,
        step.tombstone,
        step.unseen,
        step.is_lost,
        _deciding(step.then),
    )


WATCHING = rules(rotate_on=["x"])


@MANY
@given(situations())
def test_other_rights_are_never_saved_under_the_id_that_was_there(situation):
    """Where a key of `rotate_on` is stored with another value, the ID changes, and the old one dies at once.

    It has just changed where somebody logged in, or proved who they are, since the request came.
    """
    one = situation.case
    try:
        step = decide(one, WATCHING)
    except SessionDataError:
        return
    except ResponseStarted:
        assert not one.can_set_cookie
        return
    if step.step not in (Step.SAVE, Step.ROTATE):
        return
    before, after = codec.decode(step.over.encoded), stored_by(step)
    if before.get("x") != after.get("x") and not one.ends:
        has_just_changed = step.unseen or step.over.facts.proved != one.was.facts.proved
        assert step.step is Step.ROTATE or has_just_changed
        if step.tombstone is not None and step.record.user == step.over.record.user and not has_just_changed:
            assert step.tombstone.serve_until == NOW or one.moves_in
            assert one.draft.intents.reauthenticated or step.facts.authenticated_at == step.over.facts.authenticated_at
    elif step.step is Step.SAVE:
        assert step == decide(one)
