"""The claims of the APD paper as checkable statements, with tolerances fixed before the first full run."""

from __future__ import annotations

from .claim_list import Claim

_APD = {"notebook": "07_apd"}
_SMALL = {"variants": ("text", "code"), **_APD}
_LARGE = {"variants": ("text", "tuned"), "fewest": 5, **_APD}
# Residual MLPs ran with the numbers of the code's files alone, but for ranks cut to a fifth: see `APD_MLP`.
_MLP = {"variants": ("code",), "fewest": 3, **_APD}

CLAIMS = (
    Claim(
        id="apd-mmcs-40", figure="apd-table-1", place="APD Table 1", paper="apd_mmcs_40", tolerance=0.016,
        **_LARGE, statement="On superposition of 40 features in 10 dimensions MMCS is 0.996.",
    ),
    Claim(
        id="apd-ml2r-40", figure="apd-table-1", place="APD Table 1", paper="apd_ml2r_40", tolerance=0.085,
        **_LARGE, statement="On superposition of 40 features in 10 dimensions ML2R is 0.935.",
    ),
    Claim(
        id="apd-found-40", figure="apd-table-1", place="APD section 3.1", **_LARGE,
        statement="Each of the 40 features has a component of its own, cosine 0.9 and length 0.5 or more.",
    ),
    Claim(
        id="apd-mmcs-5", figure="apd-table-1", place="APD Table 1", paper="apd_mmcs_5", tolerance=0.018, **_SMALL,
        statement="On 5 features in 2 dimensions MMCS is 0.998 (text: attributions at components, code: target).",
    ),
    Claim(
        id="apd-ml2r-5", figure="apd-table-1", place="APD Table 1", paper="apd_ml2r_5", tolerance=0.085, **_SMALL,
        statement="On superposition of 5 features in 2 dimensions ML2R is 0.893.",
    ),
    Claim(
        id="apd-found-5", figure="apd-table-1", place="APD section 3.1", share=0.1, **_SMALL,
        statement="Training is brittle, but at least a tenth of the instances have a component for each feature.",
    ),
    Claim(
        id="apd-attributions", figure="apd-instances", place="APD section 3.1", variants=("text",), **_APD,
        statement="On 5 features in 2 dimensions attributions at the components give a higher MMCS than at the target.",
    ),
    Claim(
        id="apd-sum", figure="apd-table-1", place="APD section 3.1", variants=("text",), **_APD,
        statement="The sum of the components is W: the mean squared difference is below 1e-4.",
    ),
    Claim(
        id="apd-own-mlp-1", figure="apd-mlp-table", place="APD section 3.2", **_MLP,
        statement="One layer, a fifth of the ranks: at least 90 of 100 features have a component of their own.",
    ),
    Claim(
        id="apd-scrubbed-mlp-1", figure="apd-fig-8", place="APD Figure 8", **_MLP,
        statement="One layer, a fifth of the ranks: without the components of the active features the error is at "
        "least 3 times that with them (half of the others gone); the latter is below that of one neuron for a feature.",
    ),
    Claim(
        id="apd-split", figure="apd-fig-16", place="APD App. C.2", **_MLP,
        statement="One layer, a fifth of the ranks: with one component each, at least 10 of 100 features have an error "
        "of more than 1.5 times the target's; with batch top-k none has.",
    ),
    Claim(
        id="apd-own-mlp-2", figure="apd-mlp-table", place="APD section 3.3", **_MLP,
        statement="Two layers, a fifth of the ranks: at least 90 of 100 features have a component of their own.",
    ),
    Claim(
        id="apd-scrubbed-mlp-2", figure="apd-fig-25", place="APD Figure 25", **_MLP,
        statement="Two layers, a fifth of the ranks: without the components of the active features the error is at "
        "least 2.5 times that with them; the latter is below that of one neuron for a feature.",
    ),
    Claim(
        id="apd-two-layers", figure="apd-mlp-table", place="APD section 3.3", **_MLP,
        statement="Two layers, a fifth of the ranks: more components serve several features than with one (median).",
    ),
    Claim(
        id="apd-gated", figure="apd-fig-13", place="APD App. B.1.2", variants=("text",), **_APD,
        statement="Gated functions, shortened runs: each has a component with over half of its squared weights on it, "
        "those that read x, that read bits and that write counted alike.",
    ),
)  # fmt: skip
