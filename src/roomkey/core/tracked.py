"""A dict that notes how it was used.

`_accessed`: something read or wrote it. A look with `peek` alone is `PEEKED`, which is true and no use.
`_changed`: a key was assigned or taken out since it was last saved.
`_shared`: a value that can be changed in place was handed out or put in. That stays true for the rest of the request.
While `_changed` and `_shared` are both false, the content is what was loaded, and nothing has to be encoded.

Code that reads the dict past its methods, as C code may and as `dict.get(session, key)` does, is not noted. What it
then changes in place is not seen, and it is not saved unless something else is.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, NoReturn, Self, SupportsIndex

from roomkey.wire.codec import IMMUTABLE

__all__ = ["PEEKED", "TrackedDict"]


class _Use(enum.Enum):
    """How a dict was used that nothing was seen to read or write. Each member is true."""

    ASKED = "asked"  # as far as anybody knows: it was asked for once
    PEEKED = "peeked"  # by `peek` alone


# Bound once: to look up a member of an enumeration takes longer than a call.
_ASKED, PEEKED = _Use.ASKED, _Use.PEEKED


class TrackedDict(dict[str, Any]):
    """Every route through the methods of a dict is noted. Views and copies may hand out values of any type."""

    __slots__ = ("_accessed", "_changed", "_put", "_shared")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        dict.__init__(self, *args, **kwargs)
        self._accessed: bool | _Use = False
        self._changed = False
        self._shared = False
        self._put: set[str] | None = None  # keys that were assigned since it was last saved; None: no key

    def mark_accessed(self) -> None:
        """Count the session as used: the response says `Vary: Cookie`, and a renewal that is due is done.

        `request.session` calls this. Call it where only C code reads a bare `scope["session"]`: nobody can notice that.
        Where a `peek` and no other use follows, that is what the session was asked for: call it after the `peek` then.
        """
        self._accessed = _ASKED if self._accessed is False or self._accessed is PEEKED else True

    def _plain(self) -> dict[str, Any]:
        """Return a plain copy without counting as used. (`dict.copy` would go through `__iter__`, 20 times slower.)"""
        return dict(dict.items(self))

    def _share(self) -> None:
        self._accessed = self._shared = True

    # --- single values --------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        self._accessed = True
        value = dict.__getitem__(self, key)
        if type(value) not in IMMUTABLE:
            self._shared = True
        return value

    def get(self, key: str, default: Any = None) -> Any:
        self._accessed = True
        value = dict.get(self, key, default)
        if type(value) not in IMMUTABLE and value is not default:
            self._shared = True
        return value

    def peek(self, key: str, default: Any = None) -> Any:
        """Return a copy of a value without counting as use: nothing is renewed. The response says `Vary: Cookie`.

        `request.session.peek(...)` is no use either, though `request.session` alone is one.

        Args:
            key: which one.
            default: is returned as it is where the key is missing.
        """
        if self._accessed is False or self._accessed is _ASKED:
            self._accessed = PEEKED
        if not dict.__contains__(self, key):
            return default
        value = dict.__getitem__(self, key)
        return value if type(value) in IMMUTABLE else copy.deepcopy(value)

    # --- keys alone -----------------------------------------------------------------------------------------------

    def __contains__(self, key: object) -> bool:
        self._accessed = True
        return super().__contains__(key)

    def __len__(self) -> int:
        self._accessed = True
        return super().__len__()

    def __iter__(self) -> Iterator[str]:
        self._accessed = True
        return super().__iter__()

    def __reversed__(self) -> Iterator[str]:
        self._accessed = True
        return super().__reversed__()

    def keys(self) -> KeysView[str]:  # type: ignore[override]  # dict_keys is a KeysView
        self._accessed = True
        return super().keys()

    # --- all values -----------------------------------------------------------------------------------------------

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        self._share()
        return super().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        self._share()
        return super().items()

    def copy(self) -> dict[str, Any]:
        """Return a plain dict with the same content."""
        self._share()
        return self._plain()

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        self._accessed = True
        return copy.deepcopy(self._plain(), memo)

    def __eq__(self, other: object) -> bool:
        self._share()  # an `__eq__` of the other's gets the values
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        self._share()
        return super().__ne__(other)

    __hash__ = None

    def __or__(self, other: Any) -> Any:
        self._share()
        return self._plain() | other

    def __ror__(self, other: Any) -> Any:
        self._share()
        return other | self._plain()

    # --- changes --------------------------------------------------------------------------------------------------

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]
        self.update(other)
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self._accessed = self._changed = True
        dict.__setitem__(self, key, value)
        if type(value) not in IMMUTABLE:
            self._shared = True
        if self._put is None:
            self._put = {key}
        else:
            self._put.add(key)

    def __delitem__(self, key: str) -> None:
        self._accessed = self._changed = True
        super().__delitem__(key)

    def pop(self, *args: Any) -> Any:
        self._accessed = self._changed = True
        return super().pop(*args)

    def popitem(self) -> tuple[str, Any]:
        self._accessed = self._changed = True
        return super().popitem()

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._accessed = self._changed = True
        given = dict(*args, **kwargs)
        super().update(given)
        if not IMMUTABLE.issuperset(map(type, given.values())):
            self._shared = True
        self._put = (self._put or set()).union(given)

    def clear(self) -> None:
        self._accessed = self._changed = True
        super().clear()

    # --- not to be shown or shipped -------------------------------------------------------------------------------

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a Session cannot be pickled; pickle session.copy() instead")

    def __repr__(self) -> str:
        # Session data does not belong into logs. No angle brackets: a page that shows this would take it for a tag.
        number = dict.__len__(self)
        return f"Session({number} {'key' if number == 1 else 'keys'}, not shown here; session.copy() has them)"

    def __str__(self) -> str:
        """As `repr`, and counted as use: it says whether there is anything in the session."""
        self._accessed = True
        return repr(self)
