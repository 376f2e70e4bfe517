"""What each group of metrics.json is, what it shows and what would falsify it. A new condition is one entry here."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from .metrics import Group

Expected = Literal["right", "alike", "chance", "falls", "swaps", "lower", "ceiling", "reference", ""]
"""What has to come out for the claim to hold.

Above chance; above chance and not lower than the decoupling group (by pairs where there are any, else by intervals);
at chance; target lower than the decoupling group's; swapped words above chance; lower than the real gradient in one
accuracy at least and higher in none; in no accuracy lower than it; nothing (a reference to hold the rest against).
Lower by silence alone is not lower.
"""


@dataclass(frozen=True)
class Condition:
    """A group in words. `given`: what is put into the slots and in front of them."""

    label: str
    given: str
    shows: str
    falsified: str
    expected: Expected


DECOUPLING = "decoupling"
KNOWN = {
    DECOUPLING: Condition(
        "Host of another domain",
        "Test gradients, after a host prompt of another domain",
        "The report tells what the gradient is about, not what the prompt in front of it is about.",
        "Accuracy at chance, or the host's domain named as often as the gradient's.",
        "right",
    ),
    "same_domain": Condition(
        "Host of the same domain",
        "Test gradients, after a host prompt of their own domain",
        "The report names the gradient's entities where the host offers others of the same kind.",
        "Target or answer clearly below that with hosts of another domain: the host's entities get in.",
        "alike",
    ),
    "no_host": Condition(
        "No host",
        "Test gradients, with no prompt in front",
        "The report needs no prompt.",
        "Accuracy clearly below that with hosts: the host was carrying part of the report.",
        "alike",
    ),
    "corrections": Condition(
        "Real corrections",
        "Gradients toward the truth, on prompts that the model answers wrongly",
        "What is read from made-up corrections is also read from real ones.",
        "Accuracy clearly below that of made-up corrections.",
        "alike",
    ),
    "held_out_target": Condition(
        "Target never trained on",
        "Gradients whose target no training label has as moved to; some have it as moved from",
        "Targets are read from the gradient, not recalled from a list.",
        "Target accuracy at chance: the projector is a lookup table.",
        "right",
    ),
    "held_out_entity": Condition(
        "Word never trained on",
        "Of those, gradients whose target no training label names at all, neither as moved to nor as moved from",
        "The word is read from the gradient though no report that was trained on says it in any place.",
        "Target accuracy at chance: only words are read that training names somewhere.",
        "right",
    ),
    "held_out_subject": Condition(
        "Subject never trained on",
        "Gradients on prompts about subjects that the projector never saw",
        "The report does not hang on having seen the prompt's subject.",
        "Accuracy clearly below that of seen subjects.",
        "alike",
    ),
    "held_out_template": Condition(
        "Template never trained on",
        "Gradients on prompts in a wording that the projector never saw",
        "The report does not hang on the prompt's wording.",
        "Accuracy clearly below that of seen templates.",
        "alike",
    ),
    "held_out_relation": Condition(
        "Relation never trained on",
        "Gradients of whole relations, with all their entities and wordings, that the projector never saw",
        "What is read is not bound to the kinds of facts that were trained on.",
        "Target accuracy at chance: the projector knows only the relations that it was shown.",
        "right",
    ),
    "controls.none": Condition(
        "No injection",
        "The same prompts; nothing is put into the slots",
        "Whether the prompt alone gives the report away.",
        "Any measure above chance: the prompt is being read.",
        "chance",
    ),
    "controls.zero": Condition(
        "Zero gradient",
        "A gradient of zero through the projector",
        "What the projector says of itself.",
        "Any measure above chance: the report is a template.",
        "chance",
    ),
    "controls.random": Condition(
        "Random vectors",
        "Random directions with the gradients' norms",
        "Whether any vector of this size brings such reports about.",
        "Any measure above chance: the injection itself makes the report.",
        "chance",
    ),
    "controls.shuffled_within": Condition(
        "Shuffled within domains",
        "Another gradient of the same domain",
        "How much of the report is the domain alone: domain stays, target and answer fall.",
        "Target as high as with the right gradient: only the domain is read.",
        "falls",
    ),
    "controls.shuffled_across": Condition(
        "Shuffled across domains",
        "A gradient of another domain",
        "That the score follows the gradient and not the row that it is scored on.",
        "Any measure above chance: scoring leaks.",
        "chance",
    ),
    "controls.sign_flipped": Condition(
        "Sign-flipped",
        "The gradient times minus one; scored on the report with target and answer swapped",
        "That direction is read and not topic alone.",
        "Target and answer of the swapped report at chance: topic without direction.",
        "swaps",
    ),
    "controls.covariance_matched": Condition(
        "Covariance-matched noise",
        "Gaussian vectors with the mean and covariance of the training gradients",
        "Whether what looks like gradients in bulk brings a report about; of a kind that training has not seen.",
        "Any measure above chance: the report is a template.",
        "chance",
    ),
    "controls.scrambled_signs": Condition(
        "Scrambled signs",
        "The gradient's own sizes with random signs; of a kind that training has not seen",
        "Whether abstention reaches beyond the shams that it was taught.",
        "Any measure above chance: sizes alone give the report away.",
        "chance",
    ),
    "controls.sparse": Condition(
        "Sparse noise",
        "Random directions with few coordinates; of a kind that training has not seen",
        "Whether abstention reaches beyond the shams that it was taught.",
        "Any measure above chance: any vector brings a report about.",
        "chance",
    ),
    "controls.wave": Condition(
        "Waves",
        "Cosines along the coordinates; of a kind that training has not seen",
        "Whether abstention reaches beyond the shams that it was taught.",
        "Any measure above chance: any vector brings a report about.",
        "chance",
    ),
    "controls.bias_only": Condition(
        "Bias-only projector",
        "A projector that ignores the gradient: one, of the first seed, trained for at most 60 steps (a constant needs "
        "few), its gate always open",
        "What the template alone scores.",
        "Any measure above chance: the report doesn't need the gradient.",
        "chance",
    ),
    "controls.activation": Condition(
        "Activation in place of the gradient",
        "The activation at the same place as the update direction, at the gradient's norm",
        "Whether the prompt is being inverted: an activation knows the prompt but not the target.",
        "Target as high as with the gradient: the prompt is read, not the update.",
        "falls",
    ),
    "controls.activation_negated": Condition(
        "Minus the activation in place of the gradient",
        "The same with the other sign, which points away from what the model would say, as real gradients do",
        "Whether the prompt is being inverted, with the sign that could score.",
        "Target as high as with the gradient: the prompt is read, not the update.",
        "falls",
    ),
    "controls.without_activation": Condition(
        "Gradient without its activation part",
        "The gradient less its component along the activation",
        "That what is read is not the prompt's activation leaking in.",
        "Accuracy clearly below that of the whole gradient.",
        "alike",
    ),
    "controls.lens_tokens": Condition(
        "Reader of the lens tokens",
        "Only the token that rises most and the one that falls most, as words in the slots",
        "Whether two words from the lens do as well as the projector.",
        "No worse than the projector: the projector adds nothing.",
        "lower",
    ),
    "controls.steering_vector": Condition(
        "Steering vector",
        "The difference of mean activations between target and answer prompts, at the gradient's norm",
        "Whether a gradient says what a steering vector would.",
        "As high as with the gradient, or lower only because reports are silent: gradients are steering vectors by "
        "another name.",
        "lower",
    ),
    "controls.fine_tuned": Condition(
        "Difference after fine-tuning",
        "How the activation moved in real Adam steps on the sample, at the gradient's norm",
        "Whether reading a gradient is the same as reading what training has already done.",
        "As high as with the gradient, or lower only because reports are silent: the gradient adds nothing to a diff.",
        "lower",
    ),
    "controls.false_host": Condition(
        "Host that states something false",
        "Test gradients, after a host prompt completed to a false statement of another domain",
        "That the gradient's error is reported and not the one that can be read in the text.",
        "Accuracy clearly below that with true hosts, or the host's domain named.",
        "alike",
    ),
    "controls.much_weaker": Condition(
        "A ninth of the usual strength",
        "The gradient scaled to a ninth of the reference norm",
        "That content is read at other strengths too.",
        "Accuracy clearly below that of the unscaled gradient.",
        "alike",
    ),
    "controls.weaker": Condition(
        "A third of the usual strength",
        "The gradient scaled to a third of the reference norm",
        "That content is read at other strengths too.",
        "Accuracy clearly below that of the unscaled gradient.",
        "alike",
    ),
    "controls.stronger": Condition(
        "Three times the usual strength",
        "The gradient scaled to three times the reference norm",
        "That content is read at other strengths too.",
        "Accuracy clearly below that of the unscaled gradient.",
        "alike",
    ),
    "controls.much_stronger": Condition(
        "Nine times the usual strength",
        "The gradient scaled to nine times the reference norm",
        "That content is read at other strengths too.",
        "Accuracy clearly below that of the unscaled gradient.",
        "alike",
    ),
    "ceiling": Condition(
        "Linear probe",
        "A linear classifier on the same gradients",
        "What the gradients hold for a reader that writes nothing: the ceiling for entities seen in training.",
        "Reports better than the probe: the probe is too weak to be a ceiling.",
        "ceiling",
    ),
    "floor": Condition(
        "Lens, no training",
        "Top tokens of the unembedded update direction",
        "What can be read with no training at all: the floor.",
        "Reports no better than the lens: the projector adds nothing.",
        "lower",
    ),
    "floor.held_out_target": Condition(
        "Lens, target never trained on",
        "The lens on the gradients whose target entity was never a target in the projector's training",
        "Whether the projector is needed where it was taught nothing.",
        "Reports no better than the lens: what is read of new targets, no training reads as well.",
        "lower",
    ),
    "retrieval": Condition(
        "Nearest training gradient",
        "The correction of the training gradient with the largest cosine",
        "What looking up the nearest known gradient gives.",
        "Retrieval as good on targets never trained on: nothing is read, only recalled.",
        "reference",
    ),
    "teacher": Condition(
        "Teacher",
        "The labels that the projector is trained on, against the known corrections",
        "How right the labels are that training starts from.",
        "Low agreement: what is trained would not be the known correction.",
        "reference",
    ),
}


UNGATED = "_ungated"


def condition_of(key: str) -> Condition:
    """The condition of a group; one that is not known here gets its own name and no claim."""
    gated = KNOWN.get(key.removesuffix(UNGATED))
    if key.endswith(UNGATED) and gated is not None:
        given = f"{gated.given}; the gate is open, so that nothing is kept silent"
        return replace(gated, label=f"{gated.label}, gate open", given=given)
    parent = next((known for known in KNOWN if key.startswith(f"{known}.")), None)
    name = key.rpartition(".")[2].replace("_", " ")
    if key in KNOWN:
        return KNOWN[key]
    if parent is not None:
        return Condition(
            f"{KNOWN[parent].label}, {name}",
            KNOWN[parent].given,
            KNOWN[parent].shows,
            KNOWN[parent].falsified,
            "reference",
        )
    return Condition(name.capitalize(), "Not described on this page yet", "Its numbers only.", "Not stated yet.", "")


REFERENCES = ("ceiling", "floor", "retrieval")
"""What writes no report and reads the same gradients; one level below, by group, those that are held out too."""
PLACES = {key: place for place, key in enumerate(KNOWN)}


def place_of(key: str) -> int:
    """Where a group stands among others; those that are not known come last."""
    return PLACES.get(key.removesuffix(UNGATED), len(PLACES))


def ordered(groups: Iterable[Group]) -> dict[str, Group]:
    """The groups by key, in the order of their places."""
    return {group.key: group for group in sorted(groups, key=lambda group: place_of(group.key))}
