"""`"roomkey.django"` in `INSTALLED_APPS`: `manage.py check` then looks at the settings of the sessions."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["RoomkeyConfig"]


class RoomkeyConfig(AppConfig):  # type: ignore[misc]  # Django has no types of its own
    """The app. It has no models and no tables."""

    name = "roomkey.django"
    label = "roomkey"
    verbose_name: str = "Roomkey"
