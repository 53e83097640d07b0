"""Cases for `roomkey.core.plan`, made of a session as it was and of what a handler does: no store, no loop."""

from roomkey import Session, SessionConfig
from roomkey.core.case import Case, is_for
from roomkey.core.intents import CSRF
from roomkey.core.loaded import Draft, Loaded, Stale
from roomkey.core.plan import plan
from roomkey.core.rules import Rules
from roomkey.stores.base import Record
from roomkey.wire import codec

NOW = 10_000.0  # Unix seconds
IDLE = 1_000.0  # seconds
CAP = 5_000.0  # seconds
BEGAN = 9_000.0  # when the sessions of these cases began
LOGGED_IN = 9_500.0  # when their users logged in
LATER = 9_990.0  # when somebody logged in, or proved who they are, while the request ran
FRESH = NOW + 950  # until when a session lives that is not to be renewed yet
DUE = NOW + 500  # and one that is
CLIENT = b"a browser"  # of the request
OTHER_CLIENT = b"another browser"  # of the log-in before
SESSION_ID = b"i" * 32
OLD_KEY, NEW_KEY = "01" * 32, "02" * 32


def rules(**options):
    """Return the rules of a configuration."""
    return Rules(SessionConfig(secret_key="k" * 32, store="memory://", max_age=IDLE, absolute_timeout=CAP, **options))


RULES = rules()


def loaded(
    data,
    *,
    key=OLD_KEY,
    version=3,
    expires_at=FRESH,
    authenticated_at=LOGGED_IN,
    lifetime=None,
    session_id=SESSION_ID,
    stale=Stale.NOTHING,
    marks=b"",
):
    """Return a session as it was read from a store."""
    user = RULES.user_of(data)
    facts = codec.make_facts(None if user is None else authenticated_at, lifetime, marks)
    encoded = codec.encode(data, facts)
    about = b"" if user is None else OTHER_CLIENT
    began = LATER if facts.authenticated_at == LATER else BEGAN
    record = Record(encoded, version, began, expires_at, user, about=about)
    return Loaded(key, record, b"", encoded, facts, user, session_id, stale)


def draft(was, act, mark=b""):
    """Return what a commit takes from a session, once a handler has done `act` to it."""
    session = Session(codec.decode(was.encoded) if was.encoded else {})
    act(session)
    content = session._plain()
    return Draft(content, codec.encode(content, was.facts), session._intents, frozenset(session._put or ()), mark=mark)


def case(was, act, *, mark=b"", **more):
    """Return the case of a request that loaded `was` and did `act`, where nobody else has saved since."""
    return Case(was, draft(was, act, mark), was, **{"now": NOW, "about": CLIENT, **more})


def decide(one, the_rules=RULES):
    """Return the plan, as the committer asks for it: a session that is not for this request is as good as gone."""
    if one.fresh is not None and not is_for(the_rules, one, one.fresh.record.user):
        one = one._replace(fresh=None)
    return plan(the_rules, one)


def stored_by(step):
    """Return the content that a plan stores; None: it stores none."""
    return codec.decode(step.record.data) if step.record.data else None


# --- sessions as they were loaded -------------------------------------------------------------------------------------

NOBODYS = loaded({"cart": 1, "theme": "dark"})
ANNS = loaded({"cart": 1, "theme": "dark", "user_id": "ann"})
WITH_FORMS = loaded({"cart": 1, "user_id": "ann", CSRF: ["ann", "a secret"]})

# --- and as they are stored now ---------------------------------------------------------------------------------------

NEWER = loaded({"cart": 1, "theme": "dark", "theirs": 2}, version=5)
MOVED_ON = loaded({"cart": 1, "theme": "dark", "theirs": 2}, version=5, key=NEW_KEY, session_id=None)
ANNS_NEWER = loaded({"cart": 1, "theme": "dark", "user_id": "ann", "theirs": 2}, version=5)
# Somebody logged in while the request ran.
PASSED_ON = loaded(
    {"cart": 1, "theme": "dark", "theirs": 2, "user_id": "ann", CSRF: ["ann", "a secret"]},
    key=NEW_KEY,
    version=4,
    session_id=None,
    authenticated_at=LATER,
)
