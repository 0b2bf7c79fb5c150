"""Offline retention task: multiple-choice questions of general knowledge, to show what tuning made a model forget.

``FOLDER`` is what ``lm-eval run --include_path`` is told, and ``TASK`` the task's name. A question is put plainly,
without the chat template, and each of the four answers is scored as its continuation: guessing gives 25 %. ``acc``
takes the likeliest answer, ``acc_norm`` the likeliest per character. The questions are easy on purpose, so that a small
base model has something to lose; they say nothing about how good a large one is.
"""

from __future__ import annotations

from pathlib import Path

TASK = "ab_retention"
FOLDER = Path(__file__).parent
