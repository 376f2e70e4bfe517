"""The names that other people's code imports: they stay when files move.

  from gradaware import describe, GradientWatch

`describe` says what one gradient does (docs/describe.md); `Describer` does so for many, the model opened once;
`GradientWatch` is a callback that says what training is about to teach (docs/watching.md).
"""

from .tools.describe import Describer, describe
from .tools.description import Description
from .tools.watch import GradientWatch

__all__ = ["Describer", "Description", "GradientWatch", "describe"]
