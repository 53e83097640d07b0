"""The stores, and the contract for your own. Each is imported only when it is used."""

from roomkey.stores.base import Conflict, Record, Store

__all__ = ["Conflict", "Record", "Store"]
