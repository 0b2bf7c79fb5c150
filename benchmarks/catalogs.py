"""Take new messages over into all catalogs, and remove obsolete ones: ``python -m benchmarks.catalogs [LANGUAGE]``.

With a language, such as ``it``, its catalog is begun. Messages without a translation are shown in English.
"""

import sys
from pathlib import Path

from babel.messages.frontend import CommandLineInterface

ROOT = Path(__file__).parents[1]
CATALOGS = ROOT / "assistant_builder" / "i18n"
KEYWORDS = ("t", "tm", "m", "N_", "tn:1,2", "mn:1,2", "tc:1c,2", "pgettext:1c,2")
"""The functions of ``assistant_builder.i18n`` whose arguments are messages."""


def babel(*words: str) -> None:
    """Run a command of pybabel."""
    CommandLineInterface().run(["pybabel", "-q", *words])


def main(*new: str) -> None:
    """Extract the messages, begin the catalogs of new languages, and update all catalogs."""
    template = CATALOGS / "messages.pot"
    keywords = [word for keyword in KEYWORDS for word in ("-k", keyword)]
    options = ["--no-default-keywords", *keywords, "--no-location", "--sort-output", "--no-wrap"]
    sources = [str(ROOT / name) for name in ("assistant_builder", "evals")]
    babel(
        "extract",
        "-F",
        str(ROOT / "benchmarks" / "babel.cfg"),
        *options,
        "-o",
        str(template),
        *sources,
    )
    for language in new:
        target = CATALOGS / f"{language}.po"
        if not target.exists():
            babel("init", "--no-wrap", "-l", language, "-i", str(template), "-o", str(target))
    for path in sorted(CATALOGS.glob("*.po")):
        update = ["--no-wrap", "--ignore-obsolete", "--no-fuzzy-matching"]
        files = ["-l", path.stem, "-i", str(template), "-o", str(path)]
        babel("update", *update, "--ignore-pot-creation-date", *files)
    template.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
