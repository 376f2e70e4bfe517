"""What `from gradaware import ...` offers: the names of public.py, loaded when one of them is first asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public import (
        Decoder,
        Describer,
        Description,
        GradientScale,
        GradientWatch,
        describe,
        directions,
        scaled_gradients,
    )

__all__ = [
    "Decoder",
    "Describer",
    "Description",
    "GradientScale",
    "GradientWatch",
    "describe",
    "directions",
    "scaled_gradients",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import public

    return getattr(public, name)
