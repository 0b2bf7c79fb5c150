"""The Data tab: upload, check and edit question-answer pairs, and create a study from them."""
