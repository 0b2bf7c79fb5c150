"""No package grows unnoticed: formatted lines and statements of each have a limit, which a change lowers or argues for.

``python -m tests.test_weight`` prints the table for the present code.
"""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMITS = """
assistant_builder                    4850  2570
assistant_builder/chat               3030  1710
assistant_builder/cli                2570  1295
assistant_builder/cluster             990   585
assistant_builder/config             1450   800
assistant_builder/data              5575   2980
assistant_builder/export             3470  1745
assistant_builder/documents          2850  1680
assistant_builder/i18n               690    410
assistant_builder/inference          3560  2050
assistant_builder/models             4170  2155
assistant_builder/planning           2590  1440
assistant_builder/quantization       1290   695
assistant_builder/retrieval           5040  2650
assistant_builder/runner             1910  1075
assistant_builder/serving            3590  1965
assistant_builder/store              1150   750
assistant_builder/study              2400  1440
assistant_builder/sweep               950   505
assistant_builder/training           2610  1560
assistant_builder/ui               13020   6410
assistant_builder/web               2010   1175
evals                                3900  1950
evals/bundle                         1550   880
evals/judge                           440   220
evals/metrics                        1210   520
evals/model_compare                  1900   980
evals/report                         9660  4380
evals/stats                          1390   665
evals/study_compare                  830    360
evals/tasks                           540   235
evals/atlas                           740   420
"""


def weights() -> dict[str, tuple[int, int]]:
    """Package → formatted lines and statements; modules beside the packages count as one."""
    lines, statements = Counter(), Counter()
    for top in ("assistant_builder", "evals"):
        for path in (ROOT / top).rglob("*.py"):
            inner = path.relative_to(ROOT).parts[:-1]
            package, text = "/".join(inner[:2]), path.read_text(encoding="utf-8")
            lines[package] += text.count("\n")
            statements[package] += sum(isinstance(n, ast.stmt) for n in ast.walk(ast.parse(text)))
    return {package: (lines[package], statements[package]) for package in sorted(lines)}


def limits() -> dict[str, tuple[int, int]]:
    """The limits as a table."""
    rows = (line.split() for line in LIMITS.split("\n") if line)
    return {package: (int(lines), int(statements)) for package, lines, statements in rows}


def test_no_package_outgrows_its_limit():
    allowed = limits()
    assert weights().keys() == allowed.keys()
    over = {
        package: f"{size} of {allowed[package]}"
        for package, size in weights().items()
        if any(have > most for have, most in zip(size, allowed[package], strict=True))
    }
    assert over == {}, "shorten the package, or raise its limit with the reason in the commit"


if __name__ == "__main__":
    for name, (lines, statements) in weights().items():
        print(f"{name:34}{lines:6}{statements:6}")
    print(
        f"{'together':34}{sum(a for a, _ in weights().values()):6}{sum(b for _, b in weights().values()):6}"
    )
