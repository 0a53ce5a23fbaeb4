"""MERT-330M's four trainings until one was stable, and a lower learning rate (thesis, figure A.1).

In float16 [yuan2023thesis §A.0.1]: pre-LN with gradient norm 10 crashed, with gradient norm 1 it reached the smallest
loss scale, DeepNorm collapsed, and attention relaxation was stable. A lower learning rate did not help
[yuan2023thesis §5.2.3]. Below base the learning rate is three times the 95M's at that scale, as published, and the loss
scale starts high and doubles often, so that a short run meets overflows.
"""

from typing import Any

from carrara.reproduce._base import AblationRow, Hypothesis, Reproduction

PLAIN = "mert-v1-330m-pre-ln-clip1"
HALF: dict[str, Any] = {"precision": "float16", "loss_scale.initial": 2.0**12, "loss_scale.double_after": 4}
RATE, LOWER_RATE = {"optimiser.learning_rate": 9e-3}, {"optimiser.learning_rate": 3e-3}
# A line of every step: fewer would hide spikes.
EVERY_STEP = {"log_every": 1}


def _row(label: str, recipe: str, outcome: str, rate: dict[str, Any]) -> AblationRow:
    lower = {"optimiser.learning_rate": 5e-4} if rate is LOWER_RATE else {}
    return AblationRow(label, recipe, changes=lower, small_changes=HALF | EVERY_STEP | rate, outcome=outcome)


REPRODUCTION = Reproduction(
    title="Stability of MERT-330M's training",
    source="thesis-FA.1",
    table="The thesis's figure A.1",
    column="",
    tasks=(),
    measures="training",
    notes="Below base the learning rate is three times the 95M's, as published, and the loss scale starts at 4,096 and "
    "doubles every 4 steps without overflow, so that a short run meets overflows.",
    rows=(
        _row("pre-ln-clip10", "mert-v1-330m-pre-ln-clip10", "crashed at 50,000 steps", RATE),
        _row("pre-ln-clip1", PLAIN, "smallest loss scale after 40,000 steps", RATE),
        _row("deepnorm", "mert-v1-330m-deepnorm", "collapsed at 20,000 steps", RATE),
        _row("relaxed", "mert-v1-330m", "stable over 100,000 steps", RATE),
        _row("lower-rate", PLAIN, "not stable either, and worse", LOWER_RATE),
    ),
    hypotheses=(
        Hypothesis(
            "attention relaxation is stable where pre-LN with gradient norm 10 is not", "relaxed", "pre-ln-clip10"
        ),
        Hypothesis(
            "attention relaxation is stable where pre-LN with gradient norm 1 is not", "relaxed", "pre-ln-clip1"
        ),
        Hypothesis("pre-LN with relaxation is stable where DeepNorm is not", "relaxed", "deepnorm"),
        Hypothesis("attention relaxation is stable where a lower learning rate is not", "relaxed", "lower-rate"),
    ),
)
