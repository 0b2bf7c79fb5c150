"""Questions about documents: which drafts are kept, and prompts that hold the statements that an answer rests on."""

import hashlib
from pathlib import Path

from assistant_builder.config import DataConfig, StudyConfig
from assistant_builder.data import Message, Pair, prepare_dataset
from assistant_builder.data.types import DECLINE_SENTENCE
from assistant_builder.documents.questions import DocumentQuestion
from assistant_builder.documents.statements import statements_of
from assistant_builder.documents.store import Documents, Reading
from assistant_builder.documents.types import Block, Document
from assistant_builder.retrieval.build import write_index
from assistant_builder.retrieval.drafted import kept_drafts, supporting_keys
from assistant_builder.retrieval.grounding import grounded_pairs, read_contexts, training_passages
from assistant_builder.retrieval.index import Hit, facts_of
from assistant_builder.retrieval.passages import Passages, cluster_of, passage_facts
from assistant_builder.study import Study
from tests.retrieval.fake_embedder import FakeEmbedder, pair
from tests.retrieval.test_copying import SHEET
from tests.retrieval.test_grounding import grounder

SENTENCES = (
    "The lathe starts at 500 revolutions.",
    "The lathe costs £36 to learn.",
    "Copper coins open lockers.",
    "Lockers open copper coins.",
    "Soup is served at noon.",
)
PAGES, STATEMENTS = statements_of("guide.pdf", [Block("text", each) for each in SENTENCES])
KEYS = [each.key for each in STATEMENTS]


def passages() -> Passages:
    study = Study.create(StudyConfig(name="guide"))
    document = Document("guide.pdf", "pdf", "Guide", tuple(PAGES), tuple(STATEMENTS))
    Documents(study).update([Reading(document, "0" * 64)], "", {}, complete=False)
    found = Passages.load(study, FakeEmbedder(), DECLINE_SENTENCE)
    assert found is not None
    return found


def draft(question: str, *places: int) -> DocumentQuestion:
    keys = tuple(KEYS[place] for place in places)
    return DocumentQuestion(question, "An answer", keys, "part", "template")


def test_a_draft_is_kept_where_its_own_statement_is_found_first_and_no_other_is_as_near():
    right = draft("When is soup served?", 4)
    wrong = draft("When is soup served?", 2)
    tie = draft("copper coins lockers", 2)
    both = draft("lathe starts, lathe costs?", 0, 1)
    half = draft("soup served noon?", 4, 0)
    known = passages()
    assert kept_drafts(known, [right, wrong, tie, both], 3) == [right, both]
    assert kept_drafts(known, [half], 1) == []  # a prompt of one holds one of both
    assert kept_drafts(known, [], 3) == []


def test_peoples_questions_are_linked_to_the_statements_that_have_their_answer():
    found = passages()
    assert supporting_keys(found, "How fast does the lathe start?", "500 revolutions") == (KEYS[0],)
    both = supporting_keys(found, "How fast is the lathe, and the price?", "500 revolutions; £36")
    assert set(both) == {KEYS[0], KEYS[1]}
    assert supporting_keys(found, "Is there a pool?", "Yes, with 31 degrees") == ()


def asked(*places: int) -> Pair:
    cluster = cluster_of([KEYS[place] for place in places])
    return pair(7, "How fast is the lathe, and what does it cost?", "500; £36", cluster=cluster)


def test_every_statement_that_an_answer_rests_on_is_in_the_prompt_and_never_the_answer():
    facts = passage_facts(STATEMENTS)
    hits = [Hit(facts[place], 0.9 - place / 10, 0.0, 0.9 - place / 10) for place in (4, 3, 2, 1, 0)]
    (target,) = facts_of(asked(0, 1))
    for seed in (None, *range(20)):
        chosen = training_passages(target, hits, 3, seed)
        assert {facts[0], facts[1]} <= set(chosen) and len(chosen) == 3 and target not in chosen
    places = {training_passages(target, hits, 3, seed).index(facts[0]) for seed in range(20)}
    assert len(places) > 1  # its place says nothing


def test_prompts_of_training_have_the_statements_as_they_are_found(tmp_path: Path):
    study_pairs = [asked(0, 1), pair(8, "When is soup?", "noon", cluster=cluster_of([KEYS[4]]))]
    folder = tmp_path / "retrieval"
    write_index(folder, study_pairs, [], FakeEmbedder(), {}, None, passage_facts(STATEMENTS))
    contexts = read_contexts(folder, "train")
    for longest in (1000, 25):
        first, second = grounded_pairs(study_pairs, contexts, grounder(), 0, longest)
        assert SENTENCES[0] in first.messages[0].content
        assert SENTENCES[1] in first.messages[0].content
        assert SENTENCES[4] in second.messages[0].content
        assert "£36" not in second.messages[0].content or "Q:" not in second.messages[0].content
        assert "Q:" not in first.messages[0].content  # no pair is shown, hence no answer
    assert second.messages[1:] == (Message("user", "When is soup?"), Message("assistant", "noon"))


def test_a_study_of_pairs_has_the_index_and_prompts_that_it_had_before(tmp_path: Path):
    split = prepare_dataset(SHEET, DataConfig()).split
    digest = hashlib.sha256()
    folder = tmp_path / "retrieval"
    for path in sorted(write_index(folder, split.train, split.validation, FakeEmbedder(), {})):
        content = path.read_bytes().replace(b'  "spelling": true,\n', b"")  # there since
        digest.update(path.name.encode() + content)
    for name, pairs, seed in (("train", split.train, 0), ("validation", split.validation, None)):
        for longest in (1000, 40):
            contexts = read_contexts(folder, name)
            for each in grounded_pairs(pairs, contexts, grounder(), seed, longest):
                digest.update(repr(each.messages).encode())
    # of commit 2511f660, before statements were trained
    expected = "87f262c3bba16000ab19db056f89332c7fe882285de7b2aa13a7ec27f05e26e8"
    assert digest.hexdigest() == expected
