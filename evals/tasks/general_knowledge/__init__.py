"""Offline retention task: multiple-choice questions on general knowledge that show what tuning made a model forget.

``FOLDER`` is the folder for ``lm-eval run --include_path``, ``TASK`` the task's name. A question is asked without the
chat template, and each of the four answers is scored as its continuation, so guessing gives 25 %. ``acc`` uses the
likeliest answer, ``acc_norm`` the likeliest per character. The questions are easy, so that a small base model can
answer many of them; they do not measure the quality of large models.
"""

from __future__ import annotations

from pathlib import Path

TASK = "ab_retention"
FOLDER = Path(__file__).parent
