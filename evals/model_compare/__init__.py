"""Compare models of any origin on one's own questions, by the decision of a study: the command ``judge``."""

from evals.model_compare.candidates import Candidate
from evals.model_compare.parse import parse_candidates
from evals.model_compare.run import Judgement, judge, judgements_folder

__all__ = ["Candidate", "Judgement", "judge", "judgements_folder", "parse_candidates"]
