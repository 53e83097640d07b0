"""The merge of what two requests did to one session, key by key."""

import copy
import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomkey import Session
from roomkey.core.merge import merge
from roomkey.wire import codec

_values = st.one_of(st.integers(-3, 3), st.booleans(), st.text(max_size=2), st.lists(st.integers(0, 3), max_size=2))
_sessions = st.dictionaries(st.sampled_from("abcdef"), _values, max_size=6)
_numbers = st.dictionaries(st.sampled_from("abc"), st.integers(-9, 9), max_size=3)


def merge_data(fresh, base, mine):
    return merge(fresh, base, mine).data


def exactly(data):
    """Return `data` in a form that tells True from 1 and does not depend on the order."""
    return {key: codec.encode({"": value}) for key, value in data.items()}


@given(_sessions, _sessions)
def test_merge_of_nothing(fresh, base):
    """A request that changed nothing leaves what is fresh."""
    assert exactly(merge_data(fresh, base, dict(base))) == exactly(fresh)


@given(_sessions, _sessions)
def test_merge_without_others(base, mine):
    """When nobody else wrote, the merge is what this request made."""
    assert exactly(merge_data(base, base, mine)) == exactly(mine)


@given(_sessions, _sessions, _sessions)
def test_merge_key_by_key(fresh, base, mine):
    """Each key that this request changed is as it made it, each other key as it is fresh; no argument is altered."""
    copies = exactly(fresh), exactly(base), exactly(mine)
    merged = exactly(merge_data(fresh, base, mine))
    assert (exactly(fresh), exactly(base), exactly(mine)) == copies
    was_fresh, was_base, was_mine = copies
    for key in "abcdef":
        source = was_fresh if was_base.get(key) == was_mine.get(key) else was_mine
        assert merged.get(key) == source.get(key)


def test_a_function_that_gives_nothing_the_second_time():
    """One that forgets to return in a branch that only the fresh value takes: an error, and not a value of None."""
    session = Session(n=1)
    session.change("n", lambda n: n + 1 if n == 1 else None)
    with pytest.raises(TypeError, match=r"change: the function for 'n' returned None"):
        merge({"n": 5}, {"n": 1}, dict(session), session._intents.changes)


@given(_sessions, _sessions, _sessions)
def test_merge_again_changes_nothing(fresh, base, mine):
    """Laying the same changes over twice is laying them over once."""
    once = merge_data(fresh, base, mine)
    assert exactly(merge_data(once, base, mine)) == exactly(once)


@given(_sessions, st.data())
def test_merge_of_different_keys_in_any_order(base, data):
    """Two requests that change different keys give the same session in either order."""
    one, two = dict(base), dict(base)
    for mine, keys in ((one, "abc"), (two, "def")):
        for key in data.draw(st.sets(st.sampled_from(keys))):
            if data.draw(st.booleans()):
                mine[key] = data.draw(_values)
            else:
                mine.pop(key, None)
    assert exactly(merge_data(one, base, two)) == exactly(merge_data(two, base, one))


class Request:
    """A request that loaded `base`, and what it does to its session."""

    def __init__(self, base):
        self.base = copy.deepcopy(base)
        self.session = Session(copy.deepcopy(base))

    def over(self, fresh):
        return merge(fresh, self.base, self.session.copy(), self.session._intents.changes)


@given(_numbers, _numbers, st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=6))
def test_changes_run_on_what_is_fresh(fresh, base, steps):
    """Every change() runs again on the fresh value, in order, from its default where the key is missing."""
    request, expected = Request(base), dict(fresh)
    for key, step in steps:
        request.session.change(key, lambda n, step=step: n * 2 + step, 0)
        expected[key] = expected.get(key, 0) * 2 + step
    assert request.over(fresh).data == expected


@given(_numbers, _numbers, _numbers, st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=6))
def test_changes_run_again_on_what_they_ran_on(fresh, fresher, base, steps):
    """What a merge gives can be merged again: a refresh, and then a save that meets another request."""
    request, expected = Request(base), dict(fresher)
    for key, step in steps:
        request.session.change(key, lambda n, step=step: n * 2 + step, 0)
        expected[key] = expected.get(key, 0) * 2 + step
    once = request.over(fresh)
    assert merge(fresher, fresh, once.data, once.changes).data == expected


def test_a_function_may_give_another_result_each_time():
    """A moment, a random number: what it gave the first time is not asked of it again."""
    ticks = itertools.count()
    one = Request({"log": []})
    one.session.change("log", lambda log: [*log, ("one", next(ticks))])
    assert one.over({"log": [("other", 0)]}).data == {"log": [("other", 0), ("one", 1)]}


def test_a_function_may_alter_its_argument():
    """As long as it returns it."""

    def add(log):
        log.append(1)
        return log

    one = Request({"log": [0]})
    one.session.change("log", add)
    one.session.change("log", add)
    fresh = {"log": [5]}
    assert one.over(fresh).data == {"log": [5, 1, 1]}
    assert fresh == {"log": [5]}


def test_a_function_runs_on_no_other_value():
    """It never sees the key as it was before this request gave it a value."""
    one = Request({})
    one.session.setdefault("visits", 0)
    one.session.change("visits", lambda n: n + 1)
    assert one.over({"other": 1}).data == {"visits": 1, "other": 1}
    assert one.over({"visits": 5}).data == {"visits": 1}  # assigned: the last one wins


def test_the_default_is_copied_as_it_is():
    """It need not be what a session keeps, where the function makes such a thing of it."""
    one = Request({})
    one.session.change("n", lambda counter: len(counter) + 1, default=Counter())
    assert one.over({"other": 1}).data == {"n": 1, "other": 1}


def test_a_nested_edit_after_a_change_is_an_assignment():
    """Else it would be lost."""
    one = Request({"cart": [1]})
    one.session.change("cart", lambda cart: [*cart, 2])
    one.session["cart"].append(3)
    assert one.over({"cart": [1, 9]}).data == {"cart": [1, 2, 3]}


@given(_numbers, _numbers, st.integers(1, 9))
def test_a_change_and_a_deletion(fresh, base, step):
    """A key that was changed and then deleted is gone."""
    one = Request({**base, "a": 1})
    one.session.change("a", lambda n: n + step, 0)
    del one.session["a"]
    assert "a" not in one.over(fresh).data
