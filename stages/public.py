"""The names that other people's code imports: they stay when files move.

  from gradaware import describe, GradientWatch

`describe` says what one gradient does (docs/describe.md); `Describer` does so for many, the model opened once;
`GradientWatch` is a callback that says what training is about to teach (docs/watching.md). `GradientScale`, and
`scaled_gradients` for loops of one's own, suppress or amplify what is learned along some `directions` of the residual
stream of a `Decoder` (docs/concepts.md).
"""

from .core.concepts import directions
from .core.concepts.scaling import scaled_gradients
from .core.model.decoder import Decoder
from .tools.describe import Describer, describe
from .tools.description import Description
from .tools.gradient_scale import GradientScale
from .tools.watch import GradientWatch

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
