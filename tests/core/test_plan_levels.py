"""What `roomkey.core.plan` makes of proofs: whose they are, and what another request's are worth."""

import pytest

from roomkey.core.case import Step
from roomkey.core.intents import Says
from roomkey.core.loaded import Loaded
from roomkey.wire import codec
from roomkey.wire.facts import Proved, make_facts, proofs_in, with_proof
from tests.core.cases import ANNS, LATER, LOGGED_IN, NEW_KEY, NOBODYS, NOW, case, decide, loaded
from tests.core.plans import (
    changes,
    clears,
    invalidates_and_goes_on,
    invalidates_and_logs_in,
    leaves,
    logs_ann_in,
    logs_bob_in,
    logs_in_anew,
    proves,
    rotates_it,
)

TOTP = Proved(2, "totp", LATER)
OLD = Proved(3, "passkey", LOGGED_IN)


def with_proofs(session, *proved, moment):
    """Return a session as it was loaded, with what its user has proved."""
    proofs = b""
    for each in proved:
        proofs = with_proof(proofs, each)
    facts = make_facts(moment, session.facts.lifetime, proofs=proofs)
    encoded = codec.with_facts(session.encoded, facts)
    return Loaded(*session[:3], encoded, facts, *session[5:])


WAS = with_proofs(ANNS, OLD, moment=LOGGED_IN)
PROVED = with_proofs(
    loaded({"cart": 1, "theme": "dark", "user_id": "ann", "theirs": 2}, key=NEW_KEY, version=5, session_id=None),
    OLD,
    TOTP,
    moment=LATER,
)


def says(level, method, user="ann"):
    def act(session):
        session.reauthenticated()
        session._intents = session._intents._replace(proofs=(Says(level, method, user),))

    return act


def kept(step):
    """Return what the session says afterwards that its user has proved."""
    return proofs_in(codec.facts_in(step.record.data).proofs)


@pytest.mark.parametrize("act", [changes, rotates_it, leaves, lambda session: session.remember(5)])
def test_nothing_else_touches_a_proof(act):
    """A save, a rotation and another lifetime keep it, and only what leaves nobody logged in takes it away."""
    step = decide(case(WAS, act))
    assert step.step in (Step.SAVE, Step.ROTATE) and kept(step) == (() if act is leaves else (OLD,))


@pytest.mark.parametrize("act", [logs_bob_in, logs_in_anew])
@pytest.mark.parametrize("fresh", [WAS, PROVED], ids=["as loaded", "newer"])
def test_a_log_in_begins_anew(act, fresh):
    """Whatever the session's user before it had proved, also meanwhile."""
    step = decide(case(WAS, act)._replace(fresh=fresh))
    assert step.facts.authenticated_at == NOW and kept(step) == ()


@pytest.mark.parametrize("act", [invalidates_and_logs_in, invalidates_and_goes_on])
def test_a_session_that_begins_after_another_has_no_proof(act):
    """It takes nothing along."""
    step = decide(case(WAS, act))
    assert step.step is Step.END and step.then is not None and kept(step.then) == ()


@pytest.mark.parametrize(("user", "proved"), [("ann", (Proved(2, "totp", NOW),)), ("bob", ()), (None, ())])
def test_a_proof_with_the_log_in(user, proved):
    """It is kept where it was said of the user who logs in, and dropped where it was said of another."""

    def act(session):
        logs_ann_in(session)
        says(2, "totp", user)(session)

    step = decide(case(NOBODYS, act))
    assert step.facts.authenticated_at == NOW and kept(step) == proved


def test_a_proof_stands_beside_those_that_the_request_came_with():
    """In the place of the same one from before."""
    assert kept(decide(case(WAS, says(2, "totp")))) == (OLD, Proved(2, "totp", NOW))
    assert kept(decide(case(WAS, says(3, "passkey")))) == (Proved(3, "passkey", NOW),)


@pytest.mark.parametrize("act", [changes, rotates_it])
@pytest.mark.parametrize("moment", [LATER, LOGGED_IN], ids=["later", "at the same moment"])
def test_what_another_request_proved_stays_with_the_session(act, moment):
    """A request from before it saves over that, and gets no card."""
    fresh = with_proofs(PROVED, OLD, TOTP, moment=moment)
    step = decide(case(WAS, act)._replace(fresh=fresh))
    assert step.step is Step.SAVE and kept(step) == (OLD, TOTP)


@pytest.mark.parametrize("act", [proves, says(1, "password")])
@pytest.mark.parametrize("met", [False, True], ids=["not met yet", "met before"])
def test_a_proof_takes_none_of_another_request_along(act, met):
    """It gives this request the card, which opens what this request came with and proved itself."""
    one = case(WAS, act)._replace(fresh=PROVED)
    if met:  # it has saved since
        one = case(PROVED, act)._replace(before_proof=WAS.facts)
    step = decide(one)
    own = () if act is proves else (Proved(1, "password", NOW),)
    assert step.step is Step.ROTATE and kept(step) == (OLD, *own)


def test_a_log_out_takes_them_all():
    """Nothing is left that could say it."""
    assert decide(case(WAS, clears)).step is Step.END
