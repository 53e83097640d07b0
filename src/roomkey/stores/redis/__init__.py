"""The store in Redis or Valkey."""

from roomkey.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
