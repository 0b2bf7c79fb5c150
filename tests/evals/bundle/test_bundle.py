"""A bundle holds by its scores alone, and no change of it does."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import assistant_builder as ab
from assistant_builder.cli import bundle as commands
from assistant_builder.errors import AssistantBuilderError, EvaluationError, StudyError
from evals.bundle.auditor import NOT_RECORDED, auditor_markdown
from evals.bundle.container import MAX_BYTES, SEAL, Refused, line_of, read_bundle, seal_of
from evals.bundle.verify import LINES, _Check, main, verify
from evals.bundle.write import write_bundle
from evals.model_compare.declare import declaration_hash
from tests.commands import ROOT
from tests.evals.model_compare.test_judge import facts, write_log, write_questions
from tests.study.test_wrong_types import entries, replaced


class Ends(NamedTuple):
    ci_low: float
    ci_high: float


CHANGES = {"judged": 200, "study": 500}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("home")
    patch.setenv("ASSISTANT_BUILDER_HOME", str(folder))
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def judged(home: Path) -> Path:
    """The bundle of a comparison of two logs."""
    pairs = facts(120)
    source = write_questions(home / "rooms.jsonl", pairs)
    wrong = {q: "code 0" if n % 9 == 0 else a for n, (q, a) in enumerate(pairs.items())}
    logs = [
        write_log(home / f"samples_{name}.jsonl", answers)
        for name, answers in (("a", pairs), ("b", wrong))
    ]
    ab.judge(source, *logs, name="rooms", **{"eval.bootstrap_resamples": 400})
    return write_bundle("rooms", home / "rooms.bundle")


@pytest.fixture(scope="module")
def study(home: Path) -> Path:
    """The bundle of the finished example."""
    ab.example()
    return write_bundle("example", home / "example.bundle")


def resealed(values: dict[str, Any], path: Path) -> Path:
    """A bundle of changed values with a seal that fits."""
    lines = [(name, line_of(name, values[name])) for name in LINES]
    sealed = [line for _, line in lines] + [line_of(SEAL, seal_of(lines))]
    path.write_bytes(b"".join(sealed))
    return path


def test_a_comparison_of_models_holds(judged):
    found = verify(judged)
    assert found["kind"] == "judgement" and found["verdicts"][0]["outcome"] == "worse"
    assert found["checked"]["items"] == 120 and found["checked"]["answers"] == 480
    assert found["signature"] == "none"


def test_a_study_holds_and_says_what_its_report_says(study, home):
    began = time.monotonic()
    found = verify(study)
    assert time.monotonic() - began < 60
    report = json.loads((home / "studies" / "example" / "report.json").read_text("utf-8"))
    assert found["verdicts"][0]["outcome"] == report["verdict"]["outcome"]
    assert found["checked"]["claims"] == len(report["contrasts"])


def test_it_needs_neither_torch_nor_any_other_library_than_numpy_and_scipy(study):
    code = """
import sys
from importlib.abc import MetaPathFinder

ALLOWED = {"numpy", "scipy", "assistant_builder", "evals"}

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
from evals.bundle.verify import main
code = main(sys.argv[1:])
assert not {"torch", "transformers", "pydantic", "jinja2", "httpx"} & set(sys.modules)
sys.exit(code)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(study)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["checked"]["claims"]


@pytest.mark.parametrize("which", ["judged", pytest.param("study", marks=pytest.mark.long)])
def test_no_changed_byte_holds(which, tmp_path, request):
    data = request.getfixturevalue(which).read_bytes()
    generator, path = random.Random(0), tmp_path / "changed"
    for _ in range(CHANGES[which]):
        place = generator.randrange(len(data))
        other = (data[place] + generator.randrange(1, 256)) % 256
        path.write_bytes(data[:place] + bytes([other]) + data[place + 1 :])
        with pytest.raises(Refused) as refused:
            verify(path)
        assert refused.value.place


def test_no_cut_bundle_holds(judged, tmp_path):
    data, path = judged.read_bytes(), tmp_path / "cut"
    ends = [place + 1 for place, byte in enumerate(data) if byte == 10][:-1]
    for end in (0, 1, len(data) // 2, len(data) - 1, *ends):
        path.write_bytes(data[:end])
        with pytest.raises(Refused, match="cut|changed|no bundle"):
            verify(path)


def numbers(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all figures in a value."""
    if isinstance(value, dict):
        return [each for key, item in value.items() for each in numbers(item, (*path, key))]
    if isinstance(value, list):
        return [each for key, item in enumerate(value) for each in numbers(item, (*path, key))]
    counts = isinstance(value, int | float) and not isinstance(value, bool)
    return [path] if counts else []


RECOMPUTED = ("cells", "figures", "claims", "verdicts")
"""Lines in which every figure follows from the others, or makes others wrong."""


@pytest.mark.parametrize("which", ["judged", pytest.param("study", marks=pytest.mark.long)])
def test_no_changed_figure_holds_even_with_a_seal_that_fits(which, tmp_path, request):
    path, generator = request.getfixturevalue(which), random.Random(1)
    text = json.dumps(read_bundle(path)[0])
    places = [place for place in numbers(json.loads(text)) if place[0] in RECOMPUTED]
    places += [
        place
        for place in numbers(json.loads(text))
        if place[0] == "comparisons" and place[2] == "result"
    ]
    used = scored(json.loads(text))
    for _ in range(25):
        values = json.loads(text)
        place = generator.choice(places)
        if place[0] == "cells" and (place[1], *place[2:]) not in used:
            continue  # a score that no comparison has, such as that of a question to decline
        parent: Any = values
        for key in place[:-1]:
            parent = parent[key]
        old = parent[place[-1]]
        parent[place[-1]] = old + 1 if isinstance(old, int) else old * (1 + 1e-6) + 1e-7
        with pytest.raises(Refused) as refused:
            verify(resealed(values, tmp_path / "changed"))
        assert refused.value.place


def scored(values: dict[str, Any]) -> set[tuple[Any, ...]]:
    """The scores that a comparison or figure uses, by cell, column and item."""
    found = set()
    for each in values["comparisons"] + values["figures"]:
        sides = [each[key] for key in ("baseline", "candidate", "cell") if key in each]
        items = range(len(values["items"])) if each["items"] is None else each["items"]
        for cell in sides:
            for item in items:
                if each["metric"] == "nll_per_token":
                    found |= {(cell, "nll", item), (cell, "tokens", item)}
                else:
                    found.add((cell, "metrics", each["metric"], item))
    return found


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda v: v["verdicts"][0].update(outcome="no worse"), "verdicts"),
        (lambda v: v["declaration"]["declared"].update(margin=0.5), "declaration"),
        (lambda v: v["verdicts"][0]["bounds"].pop(), "verdicts"),
        (lambda v: v["verdicts"][0].update(comparisons=[]), "verdicts"),
        (lambda v: v["cells"][1]["answers"].__setitem__(0, "code 999"), "cells"),
        (lambda v: v["items"][0].update(reference="code 1"), "items"),
        (lambda v: v["items"].pop(), "items"),
        (lambda v: v["items"].append(v["items"][0]), "items"),
        (lambda v: v["claims"][0].update(candidate="A"), "claims"),
        (lambda v: v["comparisons"][0]["options"].update(level=0.5), "comparisons"),
        (lambda v: v["comparisons"][0]["options"].update(resamples=10**12), "comparisons"),
        (lambda v: v["comparisons"][0]["options"].update(margin="x"), "comparisons"),
        (lambda v: v["comparisons"][0].update(baseline=-1), "comparisons"),
        (lambda v: v["comparisons"][0].update(baseline="__class__"), "comparisons"),
        (lambda v: v["comparisons"][0].update(items=[0, 0, 1]), "comparisons"),
        (lambda v: v["cells"][0].update(nll="x"), "cells"),
        (lambda v: v["cells"][0]["metrics"].update(exact_match=[{}] * 120), "cells"),
        (lambda v: v.update(cells={}), "cells"),
        (lambda v: v.update(items=None), "items"),
        (lambda v: v.update(bundle=[]), "bundle"),
        (lambda v: v["bundle"].update(format=2), "bundle"),
        (lambda v: v["bundle"].update(kind="study"), "declaration"),
        (lambda v: v["declaration"].pop("candidates"), "declaration"),
    ],
)
def test_values_that_contradict_each_other_or_have_wrong_types(
    change: Change, place, judged, tmp_path
):
    values = json.loads(json.dumps(read_bundle(judged)[0]))
    change(values)
    with pytest.raises(Refused) as refused:
        verify(resealed(values, tmp_path / "changed"))
    assert any(refused.value.place.startswith(each) for each in place.split("|"))


@pytest.mark.parametrize(
    "line",
    [
        b'{"name":"a","value":NaN}',
        b'{"name":"a","value":1e999}',
        b'{"name":"a","name":"a","value":1}',
        b'{"name":"a", "value":1}',
        b'{"name":"a","value":' + b"9" * 5000 + b"}",
        b'{"name":"a","value":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"name":"a","value":' + b"[" * 30 + b"]" * 30 + b"}",
        b'{"name":1,"value":1}',
        b"[]",
        b"\x00\xff",
        b"",
    ],
)
def test_hostile_lines(line, tmp_path):
    path = tmp_path / "hostile"
    path.write_bytes(line + b"\n")
    with pytest.raises(Refused, match="line 1|cut|no bundle"):
        verify(path)


def test_a_file_of_another_kind_is_called_no_bundle(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("question,answer\nWhen?,At nine.\n")
    with pytest.raises(Refused, match="it is no bundle"):
        verify(path)


@pytest.mark.parametrize("value", [b"1,", b"1.5,", b'"ab",'])
def test_millions_of_values_are_refused_at_once(value, tmp_path):
    path = tmp_path / "hostile"
    path.write_bytes(b'{"name":"a","value":[' + value * 9_000_000 + b"0]}\n")
    began = time.process_time()
    with pytest.raises(Refused, match="8,000,000 values"):
        verify(path)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda v: v["figures"][0].update(items=[]), "ZeroDivisionError"),
        (lambda v: v.update(figures=v["figures"] * 20_000), "take too long"),
        (lambda v: v["comparisons"][0].update(related=["group"] * 17), "16 labels"),
        (lambda v: v["items"][0].update(more=[[]] * 5_000_000), "lists and objects"),
    ],
)
def test_bundles_that_take_long_or_divide_by_zero_are_refused_soon(
    change: Change, what, judged, tmp_path
):
    values = json.loads(json.dumps(read_bundle(judged)[0]))
    change(values)
    path = resealed(values, tmp_path / "long")
    began = time.process_time()
    with pytest.raises(Refused, match=what):
        verify(path)
    assert time.process_time() - began < 60


def test_the_words_of_the_author_are_shown_as_such(judged, tmp_path, capsys):
    values = json.loads(json.dumps(read_bundle(judged)[0]))
    values["verdicts"][0]["sentence"] = "B is no worse than A.\x1b[2J"
    forged = resealed(values, tmp_path / "forged")
    commands.verify(forged)
    printed = capsys.readouterr().out
    assert "verdict on B: worse, computed on 120 items: exact_match -0.1083" in printed
    assert "in the words of its author: B is no worse than A.␛" in printed and "\x1b" not in printed
    values["verdicts"][0]["sentence"] = "Fine.\nsignature: by the author"
    commands.verify(resealed(values, forged))
    assert "\nsignature: by" not in capsys.readouterr().out
    values["verdicts"][0]["place"] = "signature: by the author\nverdict"
    with pytest.raises(Refused, match="no place of a verdict"):
        verify(resealed(values, forged))
    values["verdicts"][0].update(place="\x1b[2J", outcome="no worse")
    assert main([str(resealed(values, forged))]) == 1
    assert "\x1b" not in capsys.readouterr().err


def test_the_margin_of_the_loss_cannot_be_made_up(tmp_path):
    check = _Check.__new__(_Check)
    check._values = {"bundle": {"kind": "study"}}
    check._comparisons, check._results = [{"metric": "nll_per_token"}], [Ends(-2.0, -1.0)]
    check._loss_margin(0.05, 0.05, "margin")
    check._loss_margin(0.03 * 2.0, None, "margin")
    for margin, declared in ((0.06, 0.05), (0.07, None), (-0.1, None)):
        with pytest.raises(Refused):
            check._loss_margin(margin, declared, "margin")
    check._values = {"bundle": {"kind": "judgement"}}
    check._loss_margin(0.01, 0.03, "margin")  # per byte
    with pytest.raises(Refused):
        check._loss_margin(0.3, 0.03, "margin")


def test_links_pipes_folders_and_huge_files_are_refused(judged, tmp_path):
    link, pipe, huge = tmp_path / "link", tmp_path / "pipe", tmp_path / "huge"
    link.symlink_to(judged)
    os.mkfifo(pipe)
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for path in (link, pipe, huge, tmp_path, tmp_path / "missing"):
        with pytest.raises(Refused, match="file"):
            verify(path)


def test_private_bundles_hold_and_have_no_text(judged, home):
    private = write_bundle("rooms", home / "private.bundle", private=True)
    text = private.read_text(encoding="utf-8")
    assert verify(private)["verdicts"][0]["outcome"] == "worse"
    assert "What is the code" not in text and "code 7" not in text
    salt = (home / "judgements" / "rooms" / "bundle-salt").read_bytes()
    import hmac

    known = hmac.new(salt, b"What is the code of room 3?", hashlib.sha256).hexdigest()
    assert known in text


def test_a_private_bundle_quotes_no_prompt(judged, home):
    folder = home / "judgements" / "rooms"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    quoting = report | {"notes": ["A has 'Who lives in room 7?' where B has ''."]}
    try:
        (folder / "report.json").write_text(json.dumps(quoting), encoding="utf-8")
        private = write_bundle("rooms", home / "private.bundle", private=True)
        assert "room 7" not in private.read_text(encoding="utf-8")
    finally:
        (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


def test_the_document_of_an_auditor_has_no_markup_of_others():
    row = {
        "reference": "a",
        "field": "b",
        "content": "<img src=x> [x](javascript:a) |\x1b",
        "source": "c",
    }
    text = auditor_markdown("<b>", [row])
    assert "<img" not in text and "<b>" not in text and "[x](" not in text and "\x1b" not in text


def test_a_comparison_of_somebody_else_reads_nothing_outside(judged, home, tmp_path):
    shutil.copytree(home / "judgements" / "rooms", home / "judgements" / "linked")
    folder = home / "judgements" / "linked"
    (folder / "A.jsonl").rename(tmp_path / "A.jsonl")
    (folder / "A.jsonl").symlink_to(tmp_path / "A.jsonl")
    with pytest.raises(StudyError, match="it is a link"):
        write_bundle("linked", tmp_path / "x")
    (folder / "A.jsonl").unlink()
    record = json.loads((folder / "judgement.json").read_text(encoding="utf-8"))
    record["candidates"][0]["letter"] = "../rooms/A"
    record["sha256"] = declaration_hash(record)
    (folder / "judgement.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(StudyError, match="is not a path"):
        write_bundle("linked", tmp_path / "x")
    with pytest.raises(AssistantBuilderError):
        write_bundle("../judgements/rooms", tmp_path / "x")


def test_state_files_of_a_wrong_type_are_errors(judged, home, tmp_path):
    folder = home / "judgements" / "odd"
    shutil.copytree(home / "judgements" / "rooms", folder, dirs_exist_ok=True)
    for path in sorted(folder.glob("*.json*")):
        before = path.read_text(encoding="utf-8")
        first, *rest = before.splitlines() if path.suffix == ".jsonl" else [before]
        document = json.loads(first)
        wrong = [[], {}, "x", 3, None]
        wrong += [
            replaced(document, place, (3, [])[number % 2])
            for number, place in enumerate(entries(document))
        ]
        for value in wrong:
            path.write_text("\n".join([json.dumps(value), *rest]) + "\n", encoding="utf-8")
            with suppress(AssistantBuilderError):
                write_bundle("odd", tmp_path / "x", private=True)
        path.write_text(before, encoding="utf-8")


def test_signatures(judged, home, tmp_path):
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    paths = {}
    for name in ("own", "other"):
        key = Ed25519PrivateKey.generate()
        paths[name] = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        pem = serialization.Encoding.PEM
        none = serialization.NoEncryption()
        paths[name][0].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        paths[name][1].write_bytes(key.public_key().public_bytes(pem, public))
    signed = write_bundle("rooms", tmp_path / "signed.bundle", key=paths["own"][0])
    assert verify(signed, paths["own"][1])["signature"] not in ("none", "")
    with pytest.raises(Refused, match="another key signed it"):
        verify(signed, paths["other"][1])
    with pytest.raises(Refused, match="it is not signed"):
        verify(judged, paths["own"][1])
    data = signed.read_bytes()
    seal = json.loads(data.splitlines()[-1])["value"]
    values = read_bundle(signed)[0]
    values["provenance"]["python"] = "2.7"
    lines = [(name, line_of(name, values[name])) for name in LINES]
    forged = seal_of(lines, seal["signature"])
    signed.write_bytes(b"".join(line for _, line in lines) + line_of(SEAL, forged))
    with pytest.raises(Refused, match="signature: it is not that of the file"):
        verify(signed)
    with pytest.raises(EvaluationError, match="the bundle cannot be signed"):
        write_bundle("rooms", tmp_path / "x", key=paths["own"][1])


def test_every_field_of_an_auditor_has_a_source_or_is_not_recorded(study, judged):
    for path in (study, judged):
        rows = read_bundle(path)[0]["auditor"]
        assert {f"Annex IV {n}" for n in range(4, 10)} <= {row["reference"] for row in rows}
        assert all((row["content"] == NOT_RECORDED) == (row["source"] == "") for row in rows)
        filled = sum(row["content"] != NOT_RECORDED for row in rows)
        assert 10 < filled < len(rows)


def test_the_bill_of_materials_names_what_computed(study):
    pytest.importorskip("cyclonedx")
    bom = read_bundle(study)[0]["sbom"]
    assert bom["bomFormat"] == "CycloneDX"
    assert {"numpy", "scipy"} <= {part["name"] for part in bom["components"]}


def test_what_has_no_verdict_has_no_bundle(home, tmp_path):
    with pytest.raises(StudyError):
        write_bundle("nothing", tmp_path / "x")


def test_the_commands(judged, tmp_path, capsys):
    commands.verify(judged, as_json=True)
    assert json.loads(capsys.readouterr().out)["holds"] is True
    commands.verify(judged)
    assert "1 verdicts" in capsys.readouterr().out
    bad = tmp_path / "bad.bundle"
    bad.write_bytes(judged.read_bytes().replace(b'"outcome":"worse"', b'"outcome":"wurst"'))
    with pytest.raises(SystemExit) as ended:
        commands.verify(bad, as_json=True)
    printed = capsys.readouterr()
    refused = json.loads(printed.out)
    assert ended.value.code == 1 and refused["holds"] is False
    assert refused["place"] == "line 9 (verdicts)" and "does not hold" in printed.err
    to = tmp_path / "again.bundle"
    commands.bundle("rooms", to=to, auditor=tmp_path / "auditor.md")
    assert verify(to)["kind"] == "judgement"
    assert "Annex IV 9" in (tmp_path / "auditor.md").read_text(encoding="utf-8")
