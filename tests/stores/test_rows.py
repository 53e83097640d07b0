"""Records that are made from rows are records like any other."""

import pickle
from copy import copy
from dataclasses import FrozenInstanceError, astuple, fields, replace

import pytest

from roomkey.stores.base import Record
from roomkey.stores.rows import record_from

ROW = (b"data", 3, 1.5, 2.5, "ann", "successor", 3.5, b"about")


def test_every_field_comes_from_its_place():
    """It equals the record that the class makes of the same values, and has its hash, its text and its type."""
    record, same = record_from(ROW), Record(*ROW)
    assert type(record) is Record and isinstance(record, Record)
    assert record == same and hash(record) == hash(same) and repr(record) == repr(same)
    assert astuple(record) == ROW == tuple(getattr(record, field.name) for field in fields(Record))
    assert "data" not in repr(record).replace("data=", "")


@pytest.mark.parametrize("name", [field.name for field in fields(Record)])
def test_nothing_can_be_assigned(name):
    """It is as frozen as any."""
    with pytest.raises(FrozenInstanceError):
        setattr(record_from(ROW), name, None)
    with pytest.raises(FrozenInstanceError):
        delattr(record_from(ROW), name)


def test_it_can_be_replaced_copied_and_pickled():
    """What other code does with records works."""
    record = record_from(ROW)
    assert replace(record, version=4) == Record(ROW[0], 4, *ROW[2:])
    assert copy(record) == record == pickle.loads(pickle.dumps(record))
