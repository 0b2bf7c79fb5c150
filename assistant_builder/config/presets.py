"""The presets of training: the values of each, its name on the page and its purpose."""

from typing import Any

from assistant_builder.i18n import N_

BY_HEART = "by_heart"
"""Preset for the memory approach where each answer occurs once."""
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"epochs": 1.0, "rank": 8, "alpha": 16.0, "evaluations": 2},
    "balanced": {"epochs": 3.0, "rank": 16, "alpha": 32.0, "evaluations": 4},
    "thorough": {"epochs": 6.0, "rank": 32, "alpha": 64.0, "evaluations": 6},
    # one validation: the last checkpoint is kept, because questions about other facts must not choose it
    BY_HEART: {"epochs": 25.0, "rank": 16, "alpha": 32.0, "evaluations": 1},
}
"""Values that each preset sets in ``train``; all other options keep their defaults."""
PRESET_LABELS: dict[str, tuple[str, str]] = {
    "quick": (
        N_("Quick look"),
        N_("tests the workflow with your data; the answers are not representative."),
    ),
    "balanced": (N_("Balanced"), N_("suits most data; the recommended start.")),
    "thorough": (
        N_("Thorough"),
        N_("learns difficult or large data better; takes about twice as long as Balanced."),
    ),
    BY_HEART: (
        N_("By heart"),
        N_("repeats a small file until its answers are learned, where each occurs once."),
    ),
    "custom": (N_("Custom"), N_("your own values, under Advanced.")),
}
"""Preset → its name on the page and its purpose."""
