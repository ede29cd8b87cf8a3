"""The claims of the L3D paper as checkable statements, with tolerances fixed before the first full run."""

from __future__ import annotations

from dataclasses import dataclass

VARIANTS = ("text", "code", "tuned")
# Values that a verdict takes.
FEWEST = 8


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper as a checkable statement."""

    id: str
    """Anchor, and the key of its values in the notebook's record."""
    notebook: str
    """Where it is tested."""
    figure: str
    """Anchor of the figure that shows it."""
    place: str
    """Where the paper says it."""
    statement: str
    """What is checked, for one target."""
    paper: str | None = None
    """Key in paper_values.json of the paper's number; None for a claim that holds or not."""
    tolerance: float | None = None
    """How far the median may lie from the paper's number; fixed before the first full run."""
    share: float = 0.9
    """Of the targets, or subnetworks, of which a claim that holds or not has to be true."""
    variants: tuple[str, ...] = VARIANTS
    """What it is checked for; without `text` it reproduces in part at most."""
    fewest: int = FEWEST
    """Values that a verdict takes: fewer where one takes an hour."""


# What the claims of each notebook are about.
SUBJECTS = {
    "01_superposition": "Toy model of superposition",
    "02_circuit_superposition": "Circuit superposition",
    "03_high_rank": "Circuits of higher rank",
    "04_squared": "The squaring network",
    "05_language_model": "A language model, another one than the paper's",
    "06_vision": "A vision model, with other weights than the paper's",
    "07_apd": "APD, on the targets of its own paper",
}
_TMS = {"notebook": "01_superposition"}
_TMCS = {"notebook": "02_circuit_superposition"}
_HIGH = {"notebook": "03_high_rank"}
_SQUARED = {"notebook": "04_squared"}
_LANGUAGE = {"notebook": "05_language_model"}
_VISION = {"notebook": "06_vision"}

CLAIMS = (
    Claim(
        id="tms-recon", figure="recon-variants", place="section 3.1.2", paper="tms_recon", tolerance=0.04, **_TMS,
        statement="The reconstruction error (recon_sq, mean of the last 100 epochs) is 19 %.",
    ),
    Claim(
        id="tms-all-features", figure="recovery-counts", place="section 3.1.2", **_TMS,
        statement="Five subnetworks are live, and each of the five features is the top input of exactly one.",
    ),
    Claim(
        id="tms-one-feature-each", figure="paper-fig-2", place="Figure 2", **_TMS,
        statement="Moreover every subnetwork holds at least 98 % of the squared norm of its W_in on one input and "
        "95 % of that of its W_out on one output.",
    ),
    Claim(
        id="tms-parallel", figure="paper-fig-3", place="Figure 3", **_TMS,
        statement="The subnetworks' directions are nearly parallel to the model's: abs(cos) is at least 0.995 in the "
        "mean and 0.98 at worst.",
    ),
    Claim(
        id="tms-selective", figure="paper-fig-4", place="Figure 4", **_TMS,
        statement="A step along a subnetwork moves the relevant output at least 8 times as much as the mean of the "
        "others (mean over subnetworks) and 5 times as much as any (worst subnetwork).",
    ),
    Claim(
        id="tms-largest-change", figure="paper-fig-5", place="Figure 5", **_TMS,
        statement="Along every subnetwork the relevant output has the largest range of median changes.",
    ),
    Claim(
        id="tms-switch-off", figure="recovery", place="section 3.1.3", **_TMS,
        statement="A feature can be turned off: its output, where it is active, falls below 0.03 in the mean.",
    ),
    Claim(
        id="tms-interference", figure="interference", place="section 3.1.2", **_TMS,
        statement="Gradients of samples with several active features are rebuilt worse than those with one, "
        "every coefficient kept.",
    ),
    Claim(
        id="tms-dimension", figure="sizes", place="section 3.1.2", **_TMS,
        statement="The error is lower in higher dimension: at 40-10 it is below that at 5-2.",
    ),
    Claim(
        id="tms-references", figure="reference-kinds", place="section 2.2", **_TMS,
        statement="All three kinds of reference give a reasonable result: five live subnetworks, one per feature.",
    ),
    Claim(
        id="tmcs-recon", figure="tmcs-variants", place="section 3.2.2", paper="tmcs_recon", tolerance=0.025, **_TMCS,
        statement="The reconstruction error (recon_sq, mean of the last 100 epochs) is 6.4 %.",
    ),
    Claim(
        id="tmcs-lower", figure="tmcs-variants", place="section 3.1.2", **_TMCS,
        statement="The error is lower than that of the toy model of superposition (than its median over targets).",
    ),
    Claim(
        id="tmcs-all-inputs", figure="tmcs-recovery", place="section 3.2.2", **_TMCS,
        statement="Each of the ten inputs is the top input of a live subnetwork.",
    ),
    Claim(
        id="tmcs-one-input-each", figure="paper-fig-6", place="Figure 6", **_TMCS,
        statement="Ten subnetworks are live, each with at least 99 % of the squared norm of its W_in on one input, a "
        "different one each.",
    ),
    Claim(
        id="tmcs-coefficients", figure="paper-fig-7", place="Figure 7", paper="tmcs_r", tolerance=0.036, **_TMCS,
        statement="Coefficients read back from the subnetworks correlate with those of A by r = 0.916 (printed as "
        "r^2 = 0.92).",
    ),
    Claim(
        id="tmcs-overlap", figure="table-1-measured", place="Table 1", **_TMCS,
        statement="Circuits are in superposition: the mean abs(cos) between live subnetworks is above that of the toy "
        "model of superposition (its median over targets).",
    ),
    Claim(
        id="high-rank-groups", figure="paper-fig-8", place="section 3.3.2", **_HIGH,
        statement="Each of the six groups of inputs has a live subnetwork with at least 97 % of the squared norm of "
        "its W_in on that group.",
    ),
    Claim(
        id="high-rank-dead", figure="paper-fig-8", place="Figure 8", **_HIGH,
        statement="At least one of eight subnetworks is dead: never among the largest in the last epoch.",
    ),
    Claim(
        id="high-rank-recon", figure="paper-fig-s2", place="Figure S2", paper="high_rank_recon", tolerance=0.03,
        **_HIGH, statement="With ten subnetworks the error (recon_sq, mean of the last 100 epochs and of ranks 1 to 6) "
        "is 0.143.",
    ),
    Claim(
        id="high-rank-rank-1", figure="paper-fig-s2", place="section 3.3.2", **_HIGH,
        statement="Rank 1 represents the model nearly as well as rank 5: its error is at most 0.03 higher.",
    ),
    Claim(
        id="high-rank-similar", figure="paper-fig-s3", place="Figure S3", **_HIGH,
        statement="Decompositions of every rank from 1 to 6 find all six groups.",
    ),
    Claim(
        id="high-rank-excess", figure="excess-subnetworks", place="section 3.3.2", **_HIGH,
        statement="Without excess subnetworks training gets caught: with six of them a group is missed, or the error "
        "is higher by 0.02 or more than with eight.",
    ),
    Claim(
        id="high-rank-rank", figure="rank-measured", place="Table 1", **_HIGH,
        statement="Circuits have a rank above 1: of some live subnetwork the second singular value of W_in is at least "
        "a tenth of the first, where the decomposition allows it.",
    ),
    Claim(
        id="squared-recon", figure="squared-variants", place="section 3.4.2", paper="squared_recon", tolerance=0.07,
        **_SQUARED, statement="With five subnetworks of rank 2 the error (recon_sq, mean of the last 100 epochs) is "
        "32 %.",
    ),
    Claim(
        id="squared-one-each", figure="paper-fig-9", place="Figure 9", **_SQUARED,
        statement="Each of the five features has a live subnetwork with at least 97 % of the squared norm of its first "
        "layer on that input and 95 % of that of its last layer on the output of the same index.",
    ),
    Claim(
        id="squared-fraction", figure="squared-activity", place="section 3.4.2", **_SQUARED,
        statement="Each sample's reconstruction uses less than one subnetwork on average.",
    ),
    Claim(
        id="squared-n3", figure="paper-fig-s7", place="Figure S7", paper="squared_n3", tolerance=0.167, **_SQUARED,
        statement="With 3 subnetworks of rank 1 the error is 0.558.",
    ),
    Claim(
        id="squared-n5", figure="paper-fig-s7", place="Figure S7", paper="squared_n5", tolerance=0.112, **_SQUARED,
        statement="With 5 subnetworks of rank 1 the error is 0.372.",
    ),
    Claim(
        id="squared-n10", figure="paper-fig-s7", place="Figure S7", paper="squared_n10", tolerance=0.025, **_SQUARED,
        statement="With 10 subnetworks of rank 1 the error is 0.084.",
    ),
    Claim(
        id="squared-n15", figure="paper-fig-s7", place="Figure S7", paper="squared_n15", tolerance=0.010, **_SQUARED,
        statement="With 15 subnetworks of rank 1 the error is 0.033.",
    ),
    Claim(
        id="squared-more-lower", figure="paper-fig-s7", place="section 3.4.2", **_SQUARED,
        statement="The error falls with every step from 3 to 5, 10 and 15 subnetworks.",
    ),
    Claim(
        id="squared-three", figure="paper-fig-s6", place="section 3.4.2", **_SQUARED,
        statement="Three subnetworks are live and belong to three different single inputs: at least 90 % of the "
        "squared norm of the first layer on one each.",
    ),
    Claim(
        id="squared-more-dead", figure="paper-fig-s6", place="section 3.4.2", **_SQUARED,
        statement="With 15 subnetworks more are dead than with 5.",
    ),
    Claim(
        id="squared-selective", figure="paper-fig-10", place="Figure 10", **_SQUARED,
        statement="Between steps of +0.3 and -0.3 the relevant output moves at least 6 times as much as the mean of "
        "the others (mean over live subnetworks), and 3 times for the worst of them.",
    ),
    Claim(
        id="squared-relevant-samples", figure="paper-fig-10", place="section 3.4.3", **_SQUARED,
        statement="A step moves the predictions of relevant samples and hardly those of others: the relevant output "
        "moves less than half as much where its feature is zero as where it is active.",
    ),
    Claim(
        id="squared-far", figure="paper-fig-s4", place="Figure S4", **_SQUARED,
        statement="For steps of up to 0.5 the relevant output moves at least 6 times as much as the mean of the others "
        "(mean over live subnetworks, at each size).",
    ),
    Claim(
        id="squared-pairs", figure="paper-fig-s5", place="Figure S5", **_SQUARED,
        statement="Two subnetworks move their outputs independently: each output varies with the other's step by at "
        "most 15 % of its range over its own.",
    ),
    Claim(
        id="squared-hidden", figure="draft-hidden", place="the draft, section 3.4", **_SQUARED,
        statement="With the hidden layers' part of a subnetwork alone, the relevant output still moves at least 3 "
        "times as much as the mean of the others for most live subnetworks.",
    ),
    Claim(
        id="lm-recon", figure="lm-errors", place="section 3.5.1", paper="lm_recon", tolerance=0.04, **_LANGUAGE,
        statement="The reconstruction error (recon_sq of the last epoch) of 100 subnetworks is 40 %.",
    ),
    Claim(
        id="lm-meaning", figure="lm-coherence-figure", place="section 3.5.1", share=0.5, **_LANGUAGE,
        statement="Most subnetworks are interpretable. Checked of each live one: most of its top samples share their "
        "next or their last token, and more of them than for 95 % of random directions.",
    ),
    Claim(
        id="vision-recon", figure="vision-errors", place="section 3.5.2", paper="vision_recon", tolerance=0.04,
        **_VISION, statement="The reconstruction error (recon_sq of the last epoch) of 100 subnetworks is 23 %.",
    ),
    Claim(
        id="vision-dead", figure="vision-activity", place="section 3.5.2", paper="vision_dead", tolerance=0.1,
        **_VISION, statement="40 % of the subnetworks are dead.",
    ),
    Claim(
        id="vision-meaning", figure="vision-coherence-figure", place="section 3.5.2", share=0.1, **_VISION,
        statement="Some subnetworks, a tenth or more, recognise certain things. Checked of each live one: most of its "
        "top images are of one class, and more of them than for 95 % of random directions.",
    ),
)  # fmt: skip
