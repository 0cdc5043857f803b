"""Parameters that share a description have types and defaults of their own."""

from typing import Any

import griffe


class OwnSignatures(griffe.Extension):
    """Give every documented parameter what the signature says of it.

    Of parameters that are documented together griffe takes type and default of the first for all.
    """

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Correct the parameters of a function or method."""
        if func.docstring is None:
            return
        of_signature = {id(own.annotation) for own in func.parameters}
        for section in func.docstring.parsed:
            if not isinstance(section, griffe.DocstringSectionParameters):
                continue
            for item in section.value:
                name = item.name.lstrip("*")
                if name in func.parameters:
                    own = func.parameters[name]
                    item.value = own.default
                    if id(item.annotation) in of_signature:  # the docstring gives no type
                        item.annotation = own.annotation
