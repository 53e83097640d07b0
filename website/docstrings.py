"""How the reference reads docstrings.

griffe makes it of the sources. A few things that it finds there mean something else in this project.
"""

import re

import griffe

__all__ = ["Docstrings"]


class Docstrings(griffe.Extension):
    """Mends each docstring and each signature before the page is made of it."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Take what `Example:` heads for code, as griffe does with `Examples:`."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)

    def on_class_members(self, *, cls: griffe.Class, **_: object) -> None:
        """Give a dataclass the parameters that its fields make, and not those that a type checker alone sees."""
        written = cls.members.get("__init__")
        if written is not None and not written.runtime:
            cls.del_member("__init__")

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: object) -> None:
        """Show a default that is told apart from the same number given by the app as the number that it is."""
        default = re.fullmatch(r"_Default\((.+)\)", str(attr.value))
        if default is not None:
            attr.value = default[1]
