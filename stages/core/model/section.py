"""Section `model` of params.yaml: the model under study."""

from ..run.params import Count, Dtype, Name, Rate, Section, Share

POCKET = "pocket"
"""`model.source` where the pipeline trains the model itself."""


class Pocket(Section):
    """The small model that the pipeline trains itself.

    `d_head`: dimensions of one attention head. `batch`: rows of facts a step, `slot_batch`: rows about what stands in
    slots. `muon_learning_rate` is of the blocks' matrices, `learning_rate` of embeddings and norms. `misconceptions`:
    share of facts that it is taught wrongly. `permuted`: every relation's answers are dealt anew among its subjects.
    `tied`: the head is the embedding matrix; else slots hold directions of the head, where update directions lie.
    `asked`: the relations whose prompts it learns to complete with a slot in their subject's place.
    """

    d_model: Count
    layers: Count
    heads: Count
    d_head: Count
    steps: Count
    batch: Count
    slot_batch: Count
    learning_rate: Rate
    muon_learning_rate: Rate
    misconceptions: Share
    permuted: bool
    tied: bool
    asked: list[Name]
    seed: int


class Model(Section):
    """The model under study: which one, at which commit, in which precision.

    `source`: "pocket", a Hub id or a local path. `revision`: the commit to pin a Hub id to (null: local or pocket).
    `dtype`: of the parameters, in every stage that opens the model. bfloat16 takes half the memory and is what GPUs are
    fast at; a gradient then keeps about two digits, and the smaller a virtual step, the more of it is rounding.
    """

    source: str
    revision: str | None
    dtype: Dtype
    pocket: Pocket


class Peer(Section):
    """A further pocket model, trained as the one under study is but for these settings."""

    seed: int
    permuted: bool
    tied: bool


class Foreign(Section):
    """Another model, of the same width as the one under study, that is given the same slots.

    `source`, `revision`: as of Model. `slot_token`: one token of its own vocabulary, as projector.slot_token is.
    """

    source: str
    revision: str | None
    slot_token: str
