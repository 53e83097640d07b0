"""What plans say, in a form that tests compare, and what the rows of the table of `roomkey.core.plan` are."""

from roomkey.core.case import Step
from roomkey.core.intents import CSRF
from roomkey.core.reply import CLEAR, GIVE, KEEP
from roomkey.core.tombstones import Kind
from tests.core.cases import (
    BEGAN,
    CLIENT,
    FRESH,
    IDLE,
    LATER,
    LOGGED_IN,
    NEW_KEY,
    NEWER,
    NOW,
    OLD_KEY,
    OTHER_CLIENT,
    loaded,
    stored_by,
)

UNTIL = NOW + IDLE  # until when a session lives that is renewed now
UNSEEN_UNTIL = NOW + 0.89 * IDLE  # and one whose cookie is not renewed with it


def shown(step):
    """Return everything that a plan says, in a form that tests can compare."""
    record, left = step.record, step.tombstone
    return {
        "step": step.step,
        "over": step.over.key,
        "stored": stored_by(step),
        "version": record.version,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "user": record.user,
        "about": record.about,
        "authenticated_at": step.facts.authenticated_at,
        "lifetime": step.facts.lifetime,
        "shows": step.content,
        "cookie": step.cookie,
        "kind": None if left is None else Kind(left.data[0]),
        "serves_until": None if left is None else left.serve_until,
        "tombstone": None if left is None else (left.version, left.user, left.expires_at),
        "unseen": step.unseen,
        "is_lost": step.is_lost,
        "then": None if step.then is None else shown(step.then),
    }


NOTHING = {
    "step": Step.NOTHING,
    "over": "",
    "stored": None,
    "version": 0,
    "created_at": 0.0,
    "expires_at": 0.0,
    "user": None,
    "about": b"",
    "authenticated_at": None,
    "lifetime": None,
    "shows": None,
    "cookie": KEEP,
    "kind": None,
    "serves_until": None,
    "tombstone": None,
    "unseen": False,
    "is_lost": False,
    "then": None,
}


def saves(content, **more):
    """Return what a plan says that saves this content over a session that nobody is logged into."""
    usual = {"over": OLD_KEY, "version": 4, "created_at": BEGAN, "expires_at": FRESH}
    return NOTHING | usual | {"step": Step.SAVE, "stored": content} | more


def saves_anns(content, **more):
    """Return what a plan says that saves this content over ann's session."""
    return saves(content, **{"user": "ann", "about": OTHER_CLIENT, "authenticated_at": LOGGED_IN} | more)


def rotates(content, kind, *, serves=0.0, left_by=None, **more):
    """Return what a plan says that gives a session a new ID. `left_by`: whose the old one was."""
    plan = saves(content, step=Step.ROTATE, cookie=GIVE, kind=kind, expires_at=UNTIL, serves_until=NOW + serves) | more
    return plan | {"tombstone": (plan["version"], left_by, max(plan["expires_at"], UNTIL))}


def logs_in(content, *, user="ann", **more):
    """Return what a plan says that has somebody log in: both clocks begin anew, and the client is recorded."""
    whose = {"user": user, "about": CLIENT, "authenticated_at": NOW, "created_at": NOW, "shows": content}
    return rotates(content, Kind.LOGIN, **whose | more)


def begins(content, **more):
    """Return what a plan says that begins a session."""
    begun = {"step": Step.BEGIN, "stored": content, "version": 1, "created_at": NOW, "expires_at": UNTIL}
    return NOTHING | begun | {"cookie": GIVE} | more


def begins_anns(content, **more):
    """Return what a plan says that begins a session with a log-in."""
    return begins(content, **{"user": "ann", "about": CLIENT, "authenticated_at": NOW} | more)


def ends(**more):
    """Return what a plan says that ends a session."""
    return NOTHING | {"step": Step.END, "over": OLD_KEY, "cookie": CLEAR} | more


def rotates_anns(content, kind, **more):
    """Return what a plan says that gives ann's session a new ID."""
    whose = {"user": "ann", "left_by": "ann", "about": OTHER_CLIENT, "authenticated_at": LOGGED_IN}
    return rotates(content, kind, **whose | more)


def proved(content, **more):
    """Return what a plan says that has ann prove who she is: both clocks begin anew."""
    return rotates_anns(content, Kind.REAUTHENTICATED, **{"authenticated_at": NOW, "created_at": NOW} | more)


def newer(content, over=NEWER, **more):
    """Return what a plan says that saves this content over what another request has saved meanwhile."""
    return saves(content, over=over.key, **{"version": 6, "shows": content} | more)


KEEPS = {"cart": 1, "theme": "dark"}
LOSES = NOTHING | {"step": Step.LOSE, "shows": {}, "is_lost": True}
LOSES_NOTHING = LOSES | {"is_lost": False}
RENEWS = NOTHING | {
    "step": Step.RENEW,
    "over": OLD_KEY,
    "version": 3,
    "created_at": BEGAN,
    "expires_at": UNTIL,
    "stored": KEEPS,
    "cookie": GIVE,
}
THEIRS = {"theirs": 2, "user_id": "ann", CSRF: ["ann", "a secret"]}
LATER_LOGIN = {
    "over": NEW_KEY,
    "version": 5,
    "user": "ann",
    "about": OTHER_CLIENT,
    "created_at": LATER,
    "authenticated_at": LATER,
    "unseen": True,
}
BOTH = {**KEEPS, "theirs": 2}  # what the request loaded, and what another one put in
ANNS_BOTH = {**BOTH, "user_id": "ann"}
WITHOUT_CART = {"theme": "dark"}
MINE = {"user_id": "ann", "mine": 1}  # what a log-in puts in
BOBS = {"user_id": "bob", "mine": 1}
ANNS_PROVED = loaded(ANNS_BOTH, version=5, authenticated_at=LATER)
LONGER = {"lifetime": 2 * IDLE, "expires_at": NOW + 2 * IDLE, "cookie": GIVE}
SHORTER = {"lifetime": IDLE / 2, "expires_at": NOW + IDLE / 2}


# --- what the rows of the table are -----------------------------------------------------------------------------------


def changes(session):
    session["cart"] = 2


def counts(session):
    session.change("cart", lambda cart: cart + 10, default=0)


def logs_ann_in(session):
    session.update(user_id="ann", mine=1)


def logs_bob_in(session):
    session.update(user_id="bob", mine=1)


def leaves(session):
    del session["user_id"]


def empties(session):
    for key in list(session):
        del session[key]


def clears(session):
    session.clear()


def logs_in_anew(session):
    session.clear()
    session.update(user_id="ann", mine=1)


def invalidates(session):
    session.invalidate()


def invalidates_and_goes_on(session):
    session.invalidate()
    session["mine"] = 1


def invalidates_and_logs_in(session):
    session.invalidate()
    session.update(user_id="ann", mine=1)


def rotates_it(session):
    session["cart"] = 2
    session.rotate(grace=30)


def proves(session):
    session.reauthenticated()
