"""Formulas, references and table of contents of the report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from evals.report.rows_headline import export_table
from evals.report.schema import Report
from evals.tasks.general_knowledge import TASK as RETENTION


@dataclass(frozen=True)
class Formula:
    """One number of the report: in ``formula``, ``_x`` and ``_{xy}`` are subscripts; ``sources`` counts from 1."""

    name: str
    formula: str
    about: str
    sources: tuple[int, ...] = ()


def subscripts(text: str) -> list[tuple[str, bool]]:
    """Split a formula into pieces, each with whether it is a subscript: ``w_i x`` gives ``w``, ``i``, `` x``."""
    pieces = re.split(r"_(?:\{([^{}]*)\}|(\w))", text)
    cut = []
    for plain, braced, single in zip(
        pieces[::3], [*pieces[1::3], None], [*pieces[2::3], None], strict=True
    ):
        cut += [(plain, False), (braced or single or "", True)]
    return [(piece, low) for piece, low in cut if piece]


FORMULAS: tuple[Formula, ...] = (
    Formula(
        "The two arms",
        "h = W x + (α ÷ r) B A x",
        "Training changes only A and B, of rank r. LoRA stores the frozen W in float16, QLoRA in 4 bits quantized "
        "from the same float16 weights (by default NF4 with double quantization). Nothing else differs.",
        (5, 4),
    ),
    Formula(
        "Loss of a cell",
        "L = Σ_i ℓ_i ÷ Σ_i t_i,   ℓ_i = −Σ_k ln p(y_{i,k} | question, y_{i,1} … y_{i,k−1})",
        "ℓ_i is the summed negative log-probability of the reference answer's tokens under teacher forcing, t_i "
        "their number, so an item is weighted by its tokens. Perplexity is exp L, not the mean of perplexities. "
        "Every other score is the mean over items of the greedy answer, without sampling. Scored with lm-eval.",
        (10,),
    ),
    Formula(
        "Paired difference",
        "Δ = Σ_i w_i (candidate_i − baseline_i) ÷ Σ_i w_i",
        "The same items in both; w_i = t_i for the loss, 1 otherwise. It equals the difference of the two "
        "displayed figures. Pairing removes the effect of easy and hard items.",
        (1,),
    ),
    Formula(
        "BCa bootstrap interval",
        "quantiles Φ(z_0 + (z_0 + z) ÷ (1 − a (z_0 + z))) of Δ*,   z = ±1.96",
        "Δ* are the differences of resampled items with their weights; z_0 corrects the bias, a the skewness "
        "(jackknife). Used for continuous scores without clusters, and extended to the t interval on a side where "
        "that is wider, because plain intervals are too narrow below a few hundred items.",
        (6, 2),
    ),
    Formula(
        "Bootstrap-t interval",
        "Δ − se · quantiles 0.975 and 0.025 of (Δ* − Δ) ÷ se*",
        "se is the standard error of the t interval, se* that of a resample. If the differences are skewed "
        "(sample skewness beyond 0.5), BCa and t intervals are extended to it, because it is wider on the side of "
        "the rare large differences.",
        (16,),
    ),
    Formula(
        "Tango's score interval",
        "{D: |flips_1 − flips_2 − nD| ≤ 1.96 √(n (2q + D(1 − D)))}",
        "For right/wrong scores without clusters: flips_1 and flips_2 count the items that only the candidate, or "
        "only the baseline, gets right, and q is the likeliest rate of flips_2 if the difference is D. The "
        "interval is at least that of Bonett and Price, which adds one flip each way.",
        (20, 7),
    ),
    Formula(
        "Cluster-robust t interval (CR2)",
        "Δ ± t_{df} √(Σ_g r_g² ÷ (1 − h_g)) ÷ Σ_g w_g,   "
        "df = 1 ÷ (Σ_g h_g² + (Σ_g q_g)² − Σ_g q_g²),   q_g = h_g² ÷ (1 − h_g)",
        "r_g is the weighted sum of a cluster's deviations from Δ, w_g its weight, h_g its share of all weights. "
        "With equal clusters df is their number minus 1, with unequal ones it is smaller. If few clusters or items "
        "differ, each end is that with unobserved differences added; if cluster sums are skewed, the interval is "
        "extended to bootstrap-t over whole clusters.",
        (1, 17),
    ),
    Formula(
        "Two-way clusters",
        "V = V_1 + V_2 − V_{12}",
        "For two labels that cross: V_1 and V_2 are the variances by each label, V_{12} that by both together. The "
        "interval is at least as wide as by each label alone. Of nested labels the coarser counts.",
        (18,),
    ),
    Formula(
        "Correlation within a label",
        "p = share of permutations with Σ_g r_g² at least as large",
        "For every label that is not a cluster (group, family, shared answer): whether the deviations from Δ "
        "within it are alike. If they are (p ≤ 0.05 ÷ number of labels), the interval is at least the one with "
        "clusters by that label, too.",
    ),
    Formula(
        "Sign-flip test",
        "p = share of sign patterns s with |Σ_i s_i d_i| ≥ |Σ_i d_i|",
        "Swaps the two assistants item by item, or cluster by cluster; all patterns for up to 13 differing units, "
        "otherwise random patterns, including the observed one.",
    ),
    Formula(
        "Exact McNemar test",
        "p = P(|X − m ÷ 2| ≥ |b − m ÷ 2|),   X ~ Binomial(m = b + c, ½)",
        "b and c are the items that only one of the two gets right. Used without clusters only.",
        (9,),
    ),
    Formula(
        "Holm's adjustment",
        "p̃_{(j)} = min(1, max_{i ≤ j} (m − i + 1) p_{(i)})",
        "Over the m metrics of one contrast, with p-values in ascending order; it bounds the probability of any "
        "false claim of improvement. Harm is never adjusted: each interval that is wholly on the harmful side of "
        "zero is reported.",
        (8,),
    ),
    Formula(
        "Verdict",
        "hi_k ≤ margin_k for every k: no worse;   else lo_1 > 0 or any lo_k > margin_k: worse;   "
        "else: inconclusive",
        "k = 1 is the primary metric; the others are a metric of another kind and false declines. lo and hi are "
        "the ends of the interval of the harm, which is positive if the candidate is worse. All bounds must hold "
        "together, so none is adjusted (intersection–union test, each one-sided at half of 1 − the level, 2.5% at "
        "the first look and half as much at each further one). Metrics, margins and "
        "claim are fixed when scoring starts. A right/wrong metric below 5% in both cells cannot yield “no "
        "worse”.",
        (19,),
    ),
    Formula(
        "Levels of the files to ship",
        "α_f of a file f that is no worse passes on:   first: ½ to the next smaller file, ½ to the other "
        "assistant's largest;   later: all to the next smaller",
        "The level α (5% at the first look) begins at the largest file of the 16-bit assistant, and a file is "
        "tested with an interval of 1 − α_f. The last file of an assistant, or the only one, passes its level to "
        "the first open file of the other. A file that failed is tested again when more level arrives. The "
        "probability of naming any file that is worse by more than a margin is at most that of one verdict.",
        (21,),
    ),
    Formula(
        "Detectable difference",
        "2.8 × standard error,   2.8 ≈ z(0.975) + z(0.8)",
        "The true difference that 80 of 100 such studies would detect. Before a run it is about 2.8 √(share of "
        "answers that flip ÷ n).",
        (1,),
    ),
    Formula(
        "KL divergence",
        "KL(p_{16} ‖ p_4) = Σ_v p_{16}(v) ln(p_{16}(v) ÷ p_4(v))",
        "At each token of the reference answer, over the whole vocabulary: p_{16} is the prediction of the model "
        "on the 16-bit base, p_4 that on the 4-bit base. It is 0 if they agree, and also measures changes that "
        "accuracy does not show.",
        (3,),
    ),
    Formula(
        "Top-1 agreement",
        "share of tokens with argmax p_{16} = argmax p_4",
        "How often both models predict the same token as the likeliest.",
        (3,),
    ),
    Formula(
        "Expected calibration error",
        "ECE = Σ_b (n_b ÷ n) |right_b − probability_b|",
        "Bins b group the items by the mean probability that the model gives the reference answer's tokens, which "
        "is compared with the share of right answers in the bin, shown with its Wilson interval.",
        (13, 14),
    ),
    Formula(
        "Brier score",
        "Σ_i (probability_i − right_i)² ÷ n",
        "Right is 1 or 0. Lower is better.",
        (15,),
    ),
    Formula(
        "chrF, ROUGE-L, token F1",
        "F = (1 + β²) P R ÷ (β² P + R)",
        "P and R are precision and recall: of character sequences of 1 to 6 with β = 2 (chrF), of the longest "
        "common subsequence of words (ROUGE-L), of words in any order (token F1), the latter two with β = 1.",
        (11, 12),
    ),
)

REFERENCES: tuple[str, ...] = (
    "Miller, E. (2024). Adding Error Bars to Evals: A Statistical Approach to Language Model Evaluations. "
    "arXiv:2411.00640",
    "Bowyer, S., Aitchison, L., Ivanova, D. R. (2025). Position: Don't Use the CLT in LLM Evals With Fewer Than a Few "
    "Hundred Datapoints. arXiv:2503.01747",
    "Dutta, A., Krishnan, S., Kwatra, N., Ramjee, R. (2024). Accuracy is Not All You Need. arXiv:2407.09141",
    "Dettmers, T., Pagnoni, A., Holtzman, A., Zettlemoyer, L. (2023). QLoRA: Efficient Finetuning of Quantized LLMs. "
    "arXiv:2305.14314",
    "Hu, E. J., et al. (2021). LoRA: Low-Rank Adaptation of Large Language Models. arXiv:2106.09685",
    "Efron, B. (1987). Better Bootstrap Confidence Intervals. Journal of the American Statistical Association 82, "
    "171–185",
    "Bonett, D. G., Price, R. M. (2012). Adjusted Wald Confidence Interval for a Difference of Binomial Proportions "
    "Based on Paired Data. Journal of Educational and Behavioral Statistics 37, 479–488",
    "Holm, S. (1979). A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal of Statistics 6, "
    "65–70",
    "McNemar, Q. (1947). Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages. "
    "Psychometrika 12, 153–157",
    "Biderman, S., et al. (2024). Lessons from the Trenches on Reproducible Evaluation of Language Models. "
    "arXiv:2405.14782 (lm-eval)",
    "Popović, M. (2015). chrF: Character n-gram F-score for Automatic MT Evaluation. Proceedings of WMT, 392–395",
    "Lin, C.-Y. (2004). ROUGE: A Package for Automatic Evaluation of Summaries. Text Summarization Branches Out, 74–81",
    "Guo, C., Pleiss, G., Sun, Y., Weinberger, K. Q. (2017). On Calibration of Modern Neural Networks. ICML. "
    "arXiv:1706.04599",
    "Wilson, E. B. (1927). Probable Inference, the Law of Succession, and Statistical Inference. Journal of the "
    "American Statistical Association 22, 209–212",
    "Brier, G. W. (1950). Verification of Forecasts Expressed in Terms of Probability. Monthly Weather Review 78, 1–3",
    "Hall, P. (1988). Theoretical Comparison of Bootstrap Confidence Intervals. The Annals of Statistics 16, 927–953",
    "Pustejovsky, J. E., Tipton, E. (2018). Small-Sample Methods for Cluster-Robust Variance Estimation and Hypothesis "
    "Testing in Fixed Effects Models. Journal of Business & Economic Statistics 36, 672–683. arXiv:1601.01981",
    "Cameron, A. C., Gelbach, J. B., Miller, D. L. (2011). Robust Inference with Multiway Clustering. Journal of "
    "Business & Economic Statistics 29, 238–249",
    "Berger, R. L., Hsu, J. C. (1996). Bioequivalence Trials, Intersection–Union Tests and Equivalence Confidence "
    "Sets. Statistical Science 11, 283–319",
    "Tango, T. (1998). Equivalence Test and Confidence Interval for the Difference in Proportions for the "
    "Paired-Sample Design. Statistics in Medicine 17, 891–908",
    "Bretz, F., Maurer, W., Brannath, W., Posch, M. (2009). A Graphical Approach to Sequentially Rejective Multiple "
    "Test Procedures. Statistics in Medicine 28, 586–604",
)
"""The sources of the methods, cited by number from 1."""


DID = ("did", "Did 4-bit cost anything?")
SEEN = ("seen", "What could this study detect?")
FROM = ("from", "Where does the difference come from?")
BEHIND = ("behind", "Details behind the numbers")

CONTENTS: tuple[tuple[tuple[str, str], tuple[tuple[str, str], ...]], ...] = (
    (
        DID,
        (
            ("approaches", "Approaches"),
            ("formats", "Which file to ship"),
            ("bounds", "Verdict"),
            ("uncovered", "Facts not taught"),
            ("quality", "Quality"),
            ("alone", "Not compared"),
            ("flips", "Flips"),
            ("fidelity", "Fidelity"),
            ("worst", "Worst items"),
            ("retention", "Forgetting"),
            ("tasks", "Other tasks"),
            ("declining", "Declining"),
            ("reliability", "Reliability"),
            ("judge", "Judge"),
            ("votes", "Votes"),
        ),
    ),
    (
        SEEN,
        (("power", "Power"), ("noise", "Noise floor"), ("seeds", "Seeds"), ("caveats", "Caveats")),
    ),
    (
        FROM,
        (
            ("waterfall", "Waterfall"),
            ("differences", "All differences"),
            ("cells", "All cells"),
            ("exports", "Exports"),
            ("untuned", "Without tuning"),
        ),
    ),
    (
        BEHIND,
        (
            ("answers", "Answers"),
            ("training", "Training"),
            ("cost", "Time and cost"),
            ("twins", "Twins"),
            ("data", "Data"),
            ("method", "Method"),
            ("references", "References"),
            ("context", "Published figures"),
            ("glossary", "Glossary"),
            ("provenance", "Provenance"),
        ),
    ),
)
"""Groups of sections: anchor and heading of the group, then anchor and short name of each section."""
_ALONE = {
    "did": "How good is the assistant?",
    "seen": "How certain is this?",
    "from": "All figures",
}
"""Headings of groups in the report of a single arm, without a comparison."""
_OF_COMPARISONS = frozenset(
    {
        "bounds",
        "flips",
        "fidelity",
        "worst",
        "judge",
        "votes",
        "power",
        "noise",
        "waterfall",
        "twins",
    }
)
"""Sections that compare the two assistants."""


def contents(report: Report) -> list[dict[str, Any]]:
    """The table of contents, without the sections that do not apply to the report."""
    others = [name for name in report.tasks if name != RETENTION]
    alone = not report.compares
    left_out = {*(() if others else ("tasks",)), *(_OF_COMPARISONS if alone else ("alone",))}
    if not report.uncovered:
        left_out.add("uncovered")
    if not report.approaches:
        left_out.add("approaches")
    if not (report.formats or report.formats_skipped):
        left_out.add("formats")
    if alone and export_table(report) is None:
        left_out.add("exports")
    if alone and not report.contrasts:
        left_out.add("differences")
    return [
        {
            "anchor": anchor,
            "title": _ALONE.get(anchor, title) if alone else title,
            "sections": [
                {"anchor": key, "name": name} for key, name in sections if key not in left_out
            ],
        }
        for (anchor, title), sections in CONTENTS
    ]
