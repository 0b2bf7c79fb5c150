"""``python -m benchmarks.spelling``: what correcting misspelt words changes on held-out questions of eight datasets.

Printed is, for each dataset, how many answerable questions find a fact with their answer first as they are typed, how
many more and fewer with the correction, and the words that were corrected. The embedder is the bundled one, untrained.
"""

from __future__ import annotations

import re
import sys
from unittest import mock

from assistant_builder.config import load_config
from assistant_builder.data import prepare_dataset
from assistant_builder.models.embedding import Embedder
from assistant_builder.retrieval.answering import Look
from assistant_builder.retrieval.index import Index
from assistant_builder.retrieval.retriever import Chooser, Retriever
from assistant_builder.retrieval.spelling import Spelling
from assistant_builder.study import Study
from benchmarks.paths import ROOT, temporary_home

_CARDS, _OWN = ROOT / "datasets_cards", ROOT / "benchmarks" / "datasets"
DATASETS = (
    _CARDS / "ostrel-sound-ferries",
    _CARDS / "larkmoor-campsite",
    _OWN / "quernby-evening-college",
    _OWN / "wexholme-community-pool",
    _OWN / "harrowby-seeds",
    _OWN / "mokvard-espresso-parts",
    _OWN / "nettled-spout-tea-shop",
    _OWN / "dunsallow-narrowboats",
)


def main() -> int:
    """Measure and print."""
    embedder, more, fewer = Embedder.of(""), 0, 0
    for folder in DATASETS:
        config = load_config(folder / "study.yaml")
        with temporary_home():
            study = Study.create(config, folder / str(config.data.source))
            assert study.source is not None
            split = prepare_dataset(study.source, config.data).split
            index = Index.build(split.train, embedder)
            retriever = Retriever(study, index, embedder, Chooser(config.retrieval.facts))
            asked = [pair for pair in split.heldout if pair.answerable]
            looks = [Look.of(pair.messages[:-1]) for pair in asked]

            def right() -> list[bool]:
                found = zip(retriever.find(looks), asked, strict=True)  # noqa: B023 - called at once
                return [
                    each.best is not None and each.best.answer == pair.answer
                    for each, pair in found
                ]

            corrected = right()
            with mock.patch.object(Spelling, "corrected", lambda self, text, is_word: text):
                typed = right()
        won = sum(new and not old for new, old in zip(corrected, typed, strict=True))
        lost = sum(old and not new for new, old in zip(corrected, typed, strict=True))
        more, fewer = more + won, fewer + lost
        words = [
            f"{old} → {new}"
            for look in looks
            for old, new in zip(
                re.findall(r"\w+", look.query.question),
                re.findall(r"\w+", index.corrected(look.query, embedder.is_word).question),
                strict=True,
            )
            if old != new
        ]
        print(f"{folder.name}: {sum(typed)} of {len(asked)} as typed, {won} more, {lost} fewer")
        print(f"  {', '.join(dict.fromkeys(words))}")
    print(f"all: {more} more, {fewer} fewer")
    return 0


if __name__ == "__main__":
    sys.exit(main())
