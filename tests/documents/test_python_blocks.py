"""The Python blocks of the page on Python run in order, and print what the page shows."""

import ast
import contextlib
import io
import shutil

import pandas
import pytest

from assistant_builder.runner import run
from tests.documents.blocks import ROOT, fenced
from tests.documents.programs import write_synthetic_results
from tests.synthetic_study import SMALL

PAGE = ROOT / "docs" / "python.md"
README = ROOT / "README.md"


def output_of(code: str, names: dict[str, object]) -> str:
    """What a notebook shows below a cell: its prints, and the value of its last expression."""
    body = ast.parse(code).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(compile(ast.Module(body, []), "docs/python.md", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "docs/python.md", "eval"), names)
            if value is not None:
                print(repr(value))
    return "\n".join(line.rstrip() for line in shown.getvalue().splitlines())


@pytest.mark.train
@pytest.mark.long
def test_the_blocks_run_in_order_and_print_what_the_page_shows(
    bundled_models, tmp_path, monkeypatch
):
    shutil.copyfile(SMALL, tmp_path / "support.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "run_study", write_synthetic_results)
    names: dict[str, object] = {}
    blocks = list(fenced(PAGE))
    cells = [
        (block, following)
        for block, following in zip(blocks, [*blocks[1:], None], strict=True)
        if block.language == "python" and "--8<--" not in block.text
    ]
    assert len(cells) >= 8
    with pandas.option_context("display.width", 100, "display.max_columns", 20):
        for block, following in cells:
            shown = output_of(block.text, names)
            if following is not None and following.language == "text":
                assert shown == following.text.rstrip("\n"), block.id
    (block,) = [block for block in fenced(README) if block.language == "python"]
    assert "Is it good enough?" in output_of(block.text, names) and not names["answers"].empty
