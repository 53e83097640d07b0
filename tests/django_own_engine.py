"""A Django project's own session engine, on Roomkey's."""

from roomkey.django import SessionStore as RoomkeyStore


class SessionStore(RoomkeyStore):
    """What `request.session` is there."""
