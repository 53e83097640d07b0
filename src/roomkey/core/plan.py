"""What a commit does, decided by one pure function. No store, no event loop, no clock.

`plan` is called with the session as it was loaded and as it is stored now. For the first try the two are the same.
After a lost swap it is called again with what is stored by then. The rows are what the request wants, the columns what
is stored, and each cell is one step:

                 | as loaded    | newer, the same user's        | somebody logged in meanwhile      | gone
    -------------+--------------+-------------------------------+-----------------------------------+---------------
    begins one   | BEGIN        | -                             | -                                 | -
    keeps it     | RENEW        | RENEW, if it is due there     | LOSE                              | LOSE
    changes it   | SAVE         | SAVE: merged                  | SAVE: merged, unseen              | LOSE
    logs in      | ROTATE       | ROTATE: merged                | as for gone, unless the same user | BEGIN: its own
    other user   | ROTATE       | ROTATE: only what it put in   | as for gone                       | BEGIN: its own
    empties it   | END          | SAVE: what others put in, or END | SAVE: less what was loaded     | LOSE
    logs out     | END          | END                           | SAVE: less what was loaded        | LOSE

"Unseen": the session belongs to somebody who logged in while this request ran. The changes of the request are saved,
and it is shown nothing of that session. A minute after that log-in, the session is as good as gone to it.
"""

from __future__ import annotations

from typing import Any

from roomkey.core.case import Case, Plan, Step
from roomkey.core.intents import CSRF, FLASHES, NOTHING
from roomkey.core.loaded import CURRENT, NOWHERE, Draft, Loaded
from roomkey.core.merge import doubt, left_for, merge, own
from roomkey.core.reply import CLEAR, GIVE, KEEP
from roomkey.core.rules import Rules, logs_in
from roomkey.core.tombstones import Kind, tombstone
from roomkey.errors import LoginTooOld, ResponseStarted, SessionDataError
from roomkey.stores.base import Record
from roomkey.stores.rows import record_from
from roomkey.wire import codec
from roomkey.wire.codec import Facts

__all__ = ["need_cookie", "new_record", "plan", "saved_record"]

_SAVE, _BEGIN = Step.SAVE, Step.BEGIN  # bound once: to look up a member of an enumeration takes longer than a call


def plan(rules: Rules, case: Case) -> Plan:
    """Decide what to do.

    Functions of `Session.change` run again where somebody else has saved meanwhile. They are the handler's.

    Raises:
        SessionDataError: a value cannot be stored, all of it is too large, or the user's ID is none.
        ResponseStarted: it needs a cookie, and none can go out.
        Exception: what a function of `Session.change` raised.
    """
    was, draft = case.was, case.draft
    if not was.exists:
        return _begin(rules, case, draft, was)
    # Most writes are other content, and nothing else.
    if (
        case.fresh is was
        and draft.intents is NOTHING
        and not draft.mark
        and draft.content
        and draft.encoded != was.encoded
    ):
        user = rules.user_of(draft.content)
        is_plain = user == was.user == was.record.user and not (case.moves_in or case.tried)
        if is_plain and (rules.rights is None or not rules.changes_rights(was.encoded, draft.content)):
            return _plain_save(rules, case, was)
    if case.fresh is None or _is_past(rules, case, case.fresh):
        return _gone(rules, case)
    if case.ends:
        return _end(rules, case, case.fresh)
    if not case.user_asks:
        return _renew(rules, case, case.fresh)
    return _save(rules, case, case.fresh)


def _is_past(rules: Rules, case: Case, fresh: Loaded) -> bool:
    """Whether somebody has logged in too long ago for this request, from before, to save into that session."""
    if case.was.user is not None or fresh.user is None:
        return False
    log_in = fresh.facts.authenticated_at if case.log_in is None else case.log_in
    return rules.clocks.is_past(case.now, log_in)


def _begin(rules: Rules, case: Case, draft: Draft, was: Loaded = NOWHERE) -> Plan:
    """A new session with this content. `was`: an old library's, of which there is no record yet."""
    if not draft.content:
        return Plan(Step.NOTHING)
    if not case.may_begin and not case.was.exists and rules.user_of(draft.content) is None:
        return Plan(Step.LOSE, is_lost=True)
    user = rules.checked_user(draft.content)
    content = draft.content
    facts = rules.facts_of_new(rules.facts_after(case.now, was.facts, was.user, user, draft.intents), user)
    if case.tried:  # to know it from an earlier attempt to begin it
        facts = facts.with_mark(draft.mark)
    if was is NOWHERE and content is case.draft.content and CSRF not in content:
        encoded = codec.with_facts(draft.encoded, facts)
    else:
        if user != was.user or was is NOWHERE:
            content = left_for(user, was.user, was.encoded, draft, rules.user_keys_in(content))
        encoded = codec.encode(content, facts)
    whole = content
    content, encoded = rules.fitted(content, encoded)
    need_cookie(case, "a new session", rules.carrier)
    record = new_record(rules, case.now, encoded, facts, user, case.about)
    is_other = content is not whole or (was is not NOWHERE and user != was.user) or case.fresh is not case.was
    shows = content if is_other else None
    return Plan(_BEGIN, NOWHERE, record, facts, shows, GIVE)


def _gone(rules: Rules, case: Case) -> Plan:
    """There is nothing left to save to. A log-in stands on its own; everything else is lost."""
    draft = case.draft
    if case.ends:
        if draft.content and rules.user_of(draft.content) is not None:  # `invalidate`, and then a log-in
            return _begin(rules, case, draft)
        return Plan(Step.LOSE, content={}, is_lost=bool(draft.content))
    if logs_in(case.was.user, rules.user_of(draft.content), draft.intents):
        left = own(codec.decode(case.was.encoded), draft)
        left |= {key: draft.content[key] for key in rules.user_keys_in(draft.content)}
        return _begin(rules, case, draft._replace(content=left))
    return Plan(Step.LOSE, content={}, is_lost=True)


def _end(rules: Rules, case: Case, fresh: Loaded) -> Plan:
    """The session ends: by a log-out, or emptied key by key, which loses nothing that others put in meanwhile."""
    was, draft = case.was, case.draft
    begins = _begin(rules, case, draft) if draft.content else None  # checked before anything ends
    passed_on = was.user is None and fresh.user is not None  # somebody logged in meanwhile
    clears = CLEAR if case.can_set_cookie else KEEP
    if fresh is was or was.user is not None or (draft.intents.logs_out and not passed_on):
        return Plan(Step.END, fresh, content=None if fresh is was else {}, cookie=clears, then=begins)
    emptied = case._replace(draft=draft._replace(content={}))
    saves = _laid_over(rules, emptied, fresh)
    if saves.step is Step.END:
        return saves._replace(then=begins)
    if begins is not None and begins.record.user is None:  # the cookie is theirs, unless this is a log-in too
        return saves._replace(is_lost=True)
    return saves._replace(then=begins)


def _renew(rules: Rules, case: Case, fresh: Loaded) -> Plan:
    """Nothing was asked, and a renewal is due or the card is to be signed anew."""
    was, clocks, content = case.was, rules.clocks, None
    if fresh is not was:  # only where no cookie can go out: a stream goes on, and keeps its session alive
        if was.user != fresh.user:
            return Plan(Step.LOSE, content={}, is_lost=True)
        base, draft = codec.decode(was.encoded), case.draft
        content = merge(codec.decode(fresh.encoded), base, draft.content, draft.intents.changes).data
        if not clocks.is_due(case.now, fresh.record, fresh.facts, seen=False):
            return Plan(Step.NOTHING, fresh, fresh.record, fresh.facts, content)
    seen = _is_seen(case, fresh)
    old = fresh.record
    record = Record(
        old.data,
        # Under a limit, a log-in that has just ranked the user's sessions must notice.
        old.version if rules.limit is None else old.version + 1,
        old.created_at,
        clocks.renewed(case.now, old, fresh.facts, seen=seen),
        old.user,
        about=old.about,
    )
    return Plan(Step.RENEW, fresh, record, fresh.facts, content, GIVE if seen else KEEP)


def _save(rules: Rules, case: Case, fresh: Loaded) -> Plan:
    """The content goes on."""
    was, draft = case.was, case.draft
    user = rules.user_of(draft.content)
    if user != was.user:
        rules.checked_user(draft.content)
        left = left_for(user, was.user, was.encoded, draft, rules.user_keys_in(draft.content))
        if user is not None and rules.user_of(left) != user:
            raise SessionDataError(
                "user_key: its function finds another user once the session holds only what is the new user's; have "
                "it look keys up by their names"
            )
        case = case._replace(draft=draft._replace(content=left))
        if not case.draft.content:  # nothing but the forms of the user who has left
            return _end(rules, case, fresh)._replace(content={})
    return _laid_over(rules, case, fresh)


def saved_record(rules: Rules, old: Record, content: dict[str, Any], encoded: bytes, expires_at: float) -> Record:
    """Return the record of a save that changes the content, and nothing else. Raises SessionDataError."""
    rules.check(content, encoded)
    return record_from((encoded, old.version + 1, old.created_at, expires_at, old.user, None, 0.0, old.about))


def new_record(rules: Rules, now: float, encoded: bytes, facts: Facts, user: str | None, about: bytes) -> Record:
    """Return the record of a new session."""
    shown = about if user is not None else b""
    return record_from((encoded, 1, now, rules.clocks.until(now, facts), user, None, 0.0, shown))


def _plain_save(rules: Rules, case: Case, fresh: Loaded) -> Plan:
    """Other content, and nothing else: most writes are this. It is what `_laid_over` says of them, in fewer steps."""
    draft, old = case.draft, fresh.record
    expires_at, cookie = old.expires_at, KEEP
    if fresh.stale is not CURRENT or case.now >= rules.clocks.fresh_until(old, fresh.facts):
        seen = _is_seen(case, fresh)
        _, expires_at, is_renewed = rules.clocks.expiry(
            case.now, old, fresh.facts, fresh.facts, seen=seen, renews=case.renews
        )
        if seen and (is_renewed or fresh.stale is not CURRENT):
            cookie = GIVE
    try:
        record = saved_record(rules, old, draft.content, draft.encoded, expires_at)
    except SessionDataError:
        return _laid_over(rules, case, fresh)  # without the oldest flash messages, or it says what is wrong
    return Plan(_SAVE, fresh, record, fresh.facts, None, cookie)


def _laid_over(rules: Rules, case: Case, fresh: Loaded) -> Plan:
    """What the request did, over what is stored."""
    was, draft, now = case.was, case.draft, case.now
    intents, content = draft.intents, draft.content
    user = rules.user_of(content)
    passed_on = user == was.user != fresh.user
    if fresh is not was:
        content = _merged(case, fresh, changes_user=user != was.user, passed_on=passed_on)
        if not content:
            return Plan(Step.END, fresh, content={}, cookie=CLEAR if case.can_set_cookie else KEEP)
    if rules.rights is not None and user == was.user and not (passed_on or case.acts):
        intents = rules.asked(fresh.encoded, content, intents)
        case = case._replace(draft=draft._replace(intents=intents))
    facts = fresh.facts
    if not passed_on:
        facts = rules.facts_after(now, facts, was.user, user, intents, relies_on=case.relies_on)
    if draft.mark:
        facts = facts.with_mark(draft.mark)
    kind = None if case.ends else _rotation(rules, case, fresh, user, passed_on=passed_on)
    hides = rules.seals and case.moves_in
    if kind is not None and not hides:
        facts = facts.moved_from(fresh.key)
    if fresh is was and user == was.user:
        encoded = draft.encoded if facts is was.facts else codec.with_facts(draft.encoded, facts)
    else:
        encoded = codec.encode(content, facts)
    whole = content
    content, encoded = rules.fitted(content, encoded)
    shows = None if fresh is was and user == was.user and content is whole else content
    seen = kind is not None or _is_seen(case, fresh)
    created_at, expires_at, is_renewed = rules.clocks.expiry(
        now, fresh.record, fresh.facts, facts, seen=seen, rotates=kind is not None, renews=case.renews
    )
    owner = user if whole is draft.content else rules.user_of(content)
    about = fresh.record.about
    if owner != fresh.record.user or case.moves_in or logs_in(was.user, user, intents):
        about = case.about if owner is not None else b""
    record = Record(encoded, fresh.record.version + 1, created_at, expires_at, owner, about=about)
    if kind is not None:
        renewed = rules.clocks.until(now, fresh.facts)
        left = tombstone(kind, now, fresh.record, record, intents.rotate, renewed=renewed, hides=hides)
        return Plan(Step.ROTATE, fresh, record, facts, shows, GIVE, left)
    gives = seen and (is_renewed or was.stale is not CURRENT)
    if passed_on:
        shows = draft.content
    return Plan(Step.SAVE, fresh, record, facts, shows, GIVE if gives else KEEP, unseen=passed_on)


def _merged(case: Case, fresh: Loaded, *, changes_user: bool, passed_on: bool) -> dict[str, Any]:
    """Return what the request did, over what others saved meanwhile."""
    was, draft = case.was, case.draft
    theirs = codec.decode(fresh.encoded) if case.theirs is None else case.theirs
    if changes_user and was.user is not None:  # what was written under the user before stays behind
        for change in draft.intents.changes:
            if change.key == FLASHES:
                change.function(theirs.get(FLASHES, []))  # messages that others have shown are not shown again
        return draft.content
    base = doubt(codec.decode(was.encoded), case.tried, draft.content)
    only = draft.put if draft.only_put and not case.tried else None
    merged = merge(theirs, base, draft.content, draft.intents.changes, only=only).data
    if passed_on and CSRF in theirs:
        merged[CSRF] = theirs[CSRF]  # the user's forms are out with it
    return merged


def _rotation(rules: Rules, case: Case, fresh: Loaded, user: str | None, *, passed_on: bool) -> Kind | None:
    """Return why the session gets a new ID; None: it keeps the one it has."""
    was, intents = case.was, case.draft.intents
    changes_user, is_login = user != was.user, logs_in(was.user, user, intents)
    facts = rules.facts_after(case.now, was.facts, was.user, user, intents)
    # A shorter life needs a new ID: a renewal by a request under way, which does not know of it, would prolong it.
    is_shorter = facts is not was.facts and rules.clocks.idle_of(facts) < rules.clocks.idle_of(was.facts)
    proves = intents.reauthenticated or bool(intents.acting)
    asks = intents.rotate is not None or proves or changes_user or is_login or is_shorter
    # Where another request has proved who the user is, `rotate()` must not hand its card to a request from before.
    proved = case.before_proof is not None or fresh.facts.proved != was.facts.proved
    is_own = changes_user or is_login or intents.reauthenticated or not proved
    # Where another request moved the session in, its response carries the cookie.
    moves_in = case.moves_in and fresh.key == was.key
    if intents.acting and proved and not is_own:
        raise LoginTooOld("another request has proved who the user is, or acts for somebody; nothing was saved")
    if not moves_in and (not asks or passed_on or not is_own):
        return None
    need_cookie(case, "a shorter life" if is_shorter else "a rotated session", rules.carrier)
    if proves:
        return Kind.REAUTHENTICATED
    if changes_user or is_login:
        return Kind.LOGIN
    return Kind.MOVED if case.moves_in and intents.rotate is None else Kind.CLOCK


def _is_seen(case: Case, fresh: Loaded) -> bool:
    """Whether the browser hears of a renewal: a session that another request rotated has its cookie from there."""
    return case.can_set_cookie and case.was.session_id is not None and fresh.key == case.was.key


def need_cookie(case: Case, what: str, carrier: str = "cookie") -> None:
    """Raise ResponseStarted where no cookie can go out, nor a header with the card.

    Args:
        case: says it.
        what: what needs one.
        carrier: what is needed, "cookie" or "header".
    """
    if not case.can_set_cookie:
        error = ResponseStarted(
            # Short: some frameworks make it the reason of a WebSocket's close, which has room for 123 bytes.
            f"{what} needs a {carrier}, but the response has started; nothing was saved: await session.save() sooner"
        )
        # A note, which only a traceback shows.
        old, new = codec.decode(case.was.encoded) if case.was.encoded else {}, case.draft.content
        keys = [key for key in {**old, **new} if key not in old or key not in new or old[key] != new[key]]
        if keys:  # the session's own, and none from within a value: those are a user's data
            shown = ", ".join(f"session[{key[:50]!r}]" for key in keys[:5])
            error.add_note(f"This request changed {shown}{' and others' if len(keys) > 5 else ''}.")
        raise error
