"""The data steps: read, validate and split the file, then find leaks by embeddings and index the training pairs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.data import SplitName, load_split, prepare_dataset
from assistant_builder.i18n import Text, m, written
from assistant_builder.models.bundled import BUNDLED_EMBEDDERS
from assistant_builder.models.catalog import resolve
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.models.embedding import Embedder
from assistant_builder.models.fetch import fetch, needs_embedder_download
from assistant_builder.models.remote_code import allows_code
from assistant_builder.models.template_process import LimitedChatTokenizer, TemplateProcess
from assistant_builder.provenance import collect_provenance
from assistant_builder.retrieval.grounding import with_own_fact
from assistant_builder.study import Study
from assistant_builder.study.contents import Split
from assistant_builder.study.limits import LENGTHS
from assistant_builder.study.steps import Progress


def prepare_data(study: Study) -> Iterable[Path]:
    """Download the base model, then read, validate and split the data file."""
    config = study.config
    ref = resolve(config.model.base, trust_remote_code=allows_code(config.model))

    def report(done: int, total: int, message: Text) -> None:
        study.write_progress("data", Progress.saying(done, total, "bytes", message))
        study.raise_if_cancelled()

    day = study.record_template_date()
    folder = fetch(
        ref,
        revision=config.model.revision,
        trust_remote_code=allows_code(config.model),
        report=report,
    )
    if needs_embedder_download(config.retrieval.embedder):
        Embedder.download(config.retrieval.embedder, report)
    study.write_progress("data", Progress.saying(0, 1, "file", m("Reading and checking the data")))
    source = study.source
    assert source is not None  # step_inputs raises without one
    process = TemplateProcess(folder)
    try:
        # the limits turn a template or tokenizer that exceeds them into an error of the first step
        tokenizer, context = LimitedChatTokenizer(process, day), context_length(folder)
        longest = context if config.train.max_length == "auto" else config.train.max_length
        prepared = prepare_dataset(
            source,
            config.data,
            tokenizer=tokenizer,
            max_length=longest,
            max_pair_tokens=context,
            as_trained=with_own_fact if config.grounded else None,
            folder=study.folder / "data",
            title=study.title,
        )
        write_json(
            study.folder / "data" / LENGTHS,
            {"longest_answer": tokenizer.longest_answer(prepared.findings.usable)},
        )
    finally:
        process.close()
    study.write_progress("data", Progress.saying(1, 1, "file", m("Data ready")))
    splits = ("train.jsonl", "validation.jsonl", "heldout.jsonl", "rejected.jsonl")
    names = (*splits, "findings.json", "split.json", LENGTHS)
    return [study.folder / "data" / name for name in names]


def embed_data(study: Study) -> Iterable[Path]:
    """Find held-out questions that leak into training by sentence embeddings, and index the training pairs."""
    from assistant_builder.data import find_embedding_leaks
    from assistant_builder.retrieval.build import write_index
    from assistant_builder.retrieval.embedder_choice import available_embedder, embedder_for
    from assistant_builder.retrieval.passages import trained_passages
    from assistant_builder.retrieval.ranking import PLAIN, TRAINED

    config = study.config.data
    data = study.folder / "data"

    def report(done: int, total: int, message: Text) -> None:
        study.write_progress("data-embed", Progress.saying(done, total, "questions", message))
        study.raise_if_cancelled()

    def reporting(message: Text) -> Callable[[int, int], None]:
        report(0, 1, message)  # from the start on, and not after the first part
        return lambda done, total: report(done, total, message)

    report(0, 1, m("Loading the sentence embedder"))
    heldout = load_split(data, "heldout")
    seen: tuple[SplitName, ...] = ("train", "validation")
    outside = [(pair, split) for split in seen for pair in load_split(data, split)]
    setting = study.config.retrieval.embedder
    chosen = embedder_for(setting, (*heldout, *(pair for pair, _ in outside)))
    other, warning = available_embedder(setting, chosen, report)
    bundled = other in BUNDLED_EMBEDDERS
    embedder = Embedder.of(other if bundled else "", report)
    questions = [pair.compared_question for pair in (*heldout, *(pair for pair, _ in outside))]
    vectors = embedder.encode(questions, progress=reporting(m("Comparing questions by meaning")))
    # a respelled question of training is no leak: it is known to be one
    tested, compared = (
        [index for index, pair in enumerate(pairs) if pair.respelled is None]
        for pairs in (heldout, [pair for pair, _ in outside])
    )
    leaks = find_embedding_leaks(
        [heldout[index] for index in tested],
        [outside[index] for index in compared],
        vectors[: len(heldout)][tested],
        vectors[len(heldout) :][compared],
        config.embedding_threshold,
    )
    split = read_json(data / "split.json", Split)
    given = split["given"] and "heldout" not in split["cut"]
    removed = config.remove_leaks == "always" or (config.remove_leaks == "auto" and not given)
    write_json(
        study.embedding_file,
        {
            "threshold": config.embedding_threshold,
            "removed": removed,
            "leaks": [replace(leak, removed=removed).to_record() for leak in leaks],
            **({"embedder_warning": written(warning)} if warning else {}),
        },
    )
    write_json(study.folder / "provenance.json", collect_provenance(study))
    # the questions above are embedded in one call whether or not there is an index, because vectors depend on batches
    # in their last bits
    known = dict(zip(questions[len(heldout) :], vectors[len(heldout) :], strict=True))
    training = [pair for pair, name in outside if name == "train"]
    validation = [pair for pair, name in outside if name == "validation"]
    if not bundled:
        embedder, known = Embedder.of(other, report), {}
    shutil.rmtree(study.embedder_folder, ignore_errors=True)
    passages = trained_passages(study)
    if study.config.trains_embedder and not passages:
        from assistant_builder.retrieval.index import facts_of
        from assistant_builder.retrieval.train_embedder import train_embedder

        facts = [fact for pair in training for fact in facts_of(pair)]
        progress = reporting(m("Training the sentence embedder"))
        embedder, known = train_embedder(study, other, facts, progress), {}
    progress = reporting(m("Indexing the training questions"))
    index = write_index(
        study.retrieval_folder,
        training,
        validation,
        embedder,
        known,
        progress,
        passages,
        weights=TRAINED if study.embedder_folder.is_dir() else PLAIN,
    )
    trained = sorted(path for path in study.embedder_folder.rglob("*") if path.is_file())
    return [study.embedding_file, *index, *trained]
