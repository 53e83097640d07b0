"""What the shop sells."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    sku: str
    name: str
    text: str
    cents: int  # price in euro cents


_ITEMS = (
    Item("bell", "Reception bell", "One clear ring. Somebody always comes.", 2400),
    Item("fob", "Brass key fob", "Heavy enough that nobody takes it home twice.", 1850),
    Item("robe", "Bathrobe", "The one you were going to pack anyway.", 6900),
    Item("sign", "Door hanger", "“Please do not disturb”, and they do not.", 600),
    Item("tag", "Luggage tag", "Says whose it is, and nothing else.", 1200),
    Item("lamp", "Bedside lamp", "Knows when you have finished the chapter.", 4500),
)

ITEMS: Mapping[str, Item] = {item.sku: item for item in _ITEMS}
