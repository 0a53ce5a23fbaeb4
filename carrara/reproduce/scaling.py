"""Hours of music, size of the network, and private against public music (thesis, figure 6.2 and table 5.2).

The averages are those of all tasks [yuan2023thesis table 5.2]. Figure 6.2 compares systems that differ in more than
hours and size; here the lines differ in one of them each: 95M and its shape widened and deepened to 330M's, on an
eighth, a quarter, a half and the whole of one corpus, at the same number of steps. `public` is `private` on another
corpus, which the user gives.
"""

from carrara.reproduce._base import AblationRow, Hypothesis, Reproduction

# 330M's shape in the recipe of 95M; below base both shrink as the recipes do.
LARGE = {"dim": 1024, "num_layers": 24, "num_heads": 16, "ffn_dim": 4096}
LARGE_TINY = {"dim": 160, "num_layers": 8, "num_heads": 5, "ffn_dim": 640}
PUBLISHED = {"95m-1": "MERT-95M-RVQVAE", "330m-1": "MERT-330M-RVQVAE"}
FRACTIONS = {"1/8": 0.125, "1/4": 0.25, "1/2": 0.5, "1": 1.0}


def _row(size: str, fraction: str) -> AblationRow:
    label = f"{size}-{fraction.replace('/', '-')}"
    is_large = size == "330m"
    return AblationRow(
        label,
        "mert-v1-95m",
        PUBLISHED.get(label, ""),
        changes={f"network.{name}": value for name, value in LARGE.items()} if is_large else {},
        small_changes={f"network.{name}": value for name, value in LARGE_TINY.items()} if is_large else {},
        corpus_fraction=FRACTIONS[fraction],
    )


REPRODUCTION = Reproduction(
    title="Hours of music and size of the network",
    source="thesis-T5.2",
    table="The thesis's figure 6.2 and table 5.2",
    column="ALL",
    notes="The published column is the mean of the thesis's own tasks, so only its order compares. Rows are named by "
    "the network's shape and the fraction of the corpus; all have the same steps, so a smaller corpus is seen oftener.",
    rows=(
        *(_row(size, fraction) for fraction in FRACTIONS for size in ("95m", "330m")),
        AblationRow("private", "mert-v0", "MERT-95M-Kmeans"),
        AblationRow("public", "mert-v0", "MERT-95M-public-Kmeans", corpus="other"),
        AblationRow("untrained", untrained_of="95m-1"),
    ),
    hypotheses=(
        Hypothesis("330M's shape is better than 95M's on all hours", "330m-1", "95m-1"),
        Hypothesis("330M's shape is better than 95M's on an eighth of the hours", "330m-1-8", "95m-1-8"),
        Hypothesis("all hours are better than an eighth, for 95M's shape", "95m-1", "95m-1-8"),
        Hypothesis("all hours are better than an eighth, for 330M's shape", "330m-1", "330m-1-8"),
        Hypothesis("private music is better than public music", "private", "public"),
    ),
)
