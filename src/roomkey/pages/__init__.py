"""Pages to mount: a user's devices, and the sessions of everybody for the people who run the app.

Needs the package `jinja2` (`roomkey[pages]`).
"""

from roomkey.pages.activity import Activity
from roomkey.pages.devices import DevicesPage
from roomkey.pages.operators import OperatorsPage

__all__ = ["Activity", "DevicesPage", "OperatorsPage"]
