"""What `from gradaware import ...` offers: the names of public.py, loaded when one of them is first asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name != "public":  # which the import below asks for
        from . import public

        if name in ("__all__", *public.__all__):
            return getattr(public, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
