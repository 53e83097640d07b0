"""Typed sessions keep the promises about users: a view carries nothing from one user's session to another's."""

from dataclasses import dataclass, field

import msgspec
import pydantic
import pytest

from roomkey import typed
from tests.typed_site import Site, run


@dataclass
class Address:
    city: str = ""
    secret: str = ""


@dataclass
class Visit:
    user_id: int | None = None
    address: Address = field(default_factory=Address)


class AddressModel(pydantic.BaseModel):
    city: str = ""
    secret: str = ""


class VisitModel(pydantic.BaseModel):
    user_id: int | None = None
    address: AddressModel = AddressModel()


class AddressStruct(msgspec.Struct):
    city: str = ""
    secret: str = ""


class VisitStruct(msgspec.Struct):
    user_id: int | None = None
    address: AddressStruct = msgspec.field(default_factory=AddressStruct)


@pytest.mark.parametrize("shape", [Visit, VisitModel, VisitStruct])
@pytest.mark.parametrize("is_before", [True, False], ids=["changed before the log-in", "changed after it"])
def test_what_a_view_has_of_the_user_before_stays_behind(shape, is_before):
    """A nested value that is changed in place is not the next user's: as where a plain session holds it."""

    async def go():
        site = Site()
        await site.put(user_id=1, address={"city": "Bern", "secret": "of user 1"})
        view = typed(await site.load(), shape)
        address = view.address
        if is_before:
            address.city = "Basel"
        view.user_id = 2
        if not is_before:
            address.city = "Basel"
        await site.commit(view._roomkey_session)
        assert await site.stored() == {"user_id": 2}

    run(go())


@pytest.mark.parametrize("shape", [Visit, VisitModel, VisitStruct])
def test_what_a_view_has_made_is_kept_at_a_change_of_user(shape):
    """A default that the request itself has filled in goes along, and so does what it has assigned."""

    async def go():
        site = Site()
        await site.put(user_id=1)
        view = typed(await site.load(), shape)
        view.address.city = "Basel"
        view.user_id = 2
        await site.commit(view._roomkey_session)
        assert await site.stored() == {"user_id": 2, "address": {"city": "Basel", "secret": ""}}

    run(go())
