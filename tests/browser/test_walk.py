"""The walk of a user with a spreadsheet, from home to a useful answer, a correction, and the answer after it."""

import time
from collections.abc import Iterator
from pathlib import Path

import openpyxl
import pytest
from playwright.sync_api import Locator, expect

from assistant_builder.models import bundled
from assistant_builder.study import Study
from tests.browser.serving import Site, free_port, serving

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(3000)]
MINUTES = 60_000.0
NURSERY = (  # question, answer; every answer occurs once
    (
        "Wann öffnet die Gärtnerei am Samstag?",
        "Samstags öffnen wir um 8:30 Uhr und schließen um 14 Uhr.",
    ),
    ("Wo liegt der Betrieb von Grün & Söhne?", "Sie finden uns am Mühlweg 12 in Oberkälberbach."),
    ("Haben Sie auch Obstbäume?", "Ja, im Herbst bieten wir 25 alte Apfel- und Birnensorten an."),
    ("Was kostet eine Grabbepflanzung?", "Eine Grabbepflanzung kostet ab 69 Euro je Saison."),
    (
        "Liefern Sie Pflanzen nach Hause?",
        "Im Umkreis von 20 Kilometern liefern wir ab 50 Euro Bestellwert frei Haus.",
    ),
    ("Wer berät mich zu Rosen?", "Frau Käthe Böhm berät Sie dienstags und donnerstags zu Rosen."),
    ("Kann ich mit Karte zahlen?", "Wir nehmen Girokarten, aber keine Kreditkarten."),
    (
        "Überwintern Sie Kübelpflanzen?",
        "Wir überwintern Kübelpflanzen von Oktober bis April für 4 Euro im Monat.",
    ),
    ("Gibt es Gutscheine?", "Gutscheine gibt es an der Kasse in jeder Höhe ab 10 Euro."),
    ("Darf mein Hund mit ins Gewächshaus?", "Hunde dürfen an der Leine mit ins Gewächshaus."),
    (
        "Welche Erde brauche ich für Tomaten?",
        "Für Tomaten empfehlen wir unsere torffreie Gemüseerde.",
    ),
    (
        "Wie oft gieße ich Orchideen?",
        "Orchideen tauchen Sie einmal in der Woche für zehn Minuten in Wasser.",
    ),
    (
        "Wann pflanze ich Tulpenzwiebeln?",
        "Tulpenzwiebeln kommen von Ende September bis November in die Erde.",
    ),
    ("Nehmen Sie leere Töpfe zurück?", "Saubere Plastiktöpfe nehmen wir am Hintereingang zurück."),
    (
        "Bieten Sie Kurse an?",
        "Jeden ersten Freitag im Monat zeigt Herr Jürgen Weiß das Schneiden von Obstbäumen.",
    ),
    ("Haben Sie Weihnachtsbäume?", "Nordmanntannen verkaufen wir ab dem 1. Dezember."),
    (
        "Wie lange gilt die Anwachsgarantie?",
        "Für Gehölze gilt eine Anwachsgarantie von zwei Jahren.",
    ),
    ("Gibt es Parkplätze?", "Vor dem Gewächshaus gibt es 18 kostenlose Parkplätze."),
    ("Verkaufen Sie Bienenfutter?", "Futterteig für Bienen bekommen Sie im Hofladen."),
    (
        "Kann ich Sträuße vorbestellen?",
        "Sträuße bestellen Sie bis zum Vortag um 12 Uhr unter 0711 555 0142.",
    ),
    (
        "Was mache ich gegen Blattläuse?",
        "Gegen Blattläuse helfen Marienkäferlarven, die wir von Mai an führen.",
    ),
    ("Welche Hecke wächst schnell?", "Die Hainbuche wächst bei uns etwa 40 Zentimeter im Jahr."),
    ("Pflanzen Sie auch für Firmen?", "Für Firmen bepflanzen und pflegen wir Tröge auf Vertrag."),
    ("Wann ist das Hoffest?", "Das Hoffest ist am letzten Sonntag im Mai."),
    ("Haben Sie Bio-Gemüse?", "Bio-Gemüse aus eigenem Anbau gibt es mittwochs und samstags."),
    (
        "Wie dünge ich Hortensien?",
        "Hortensien düngen Sie im März und im Juni mit Rhododendrondünger.",
    ),
    ("Gibt es bei Ihnen ein Café?", "Das Café „Zur Linde“ hat von April bis Oktober geöffnet."),
    (
        "Schneiden Sie meine Hecke?",
        "Heckenschnitt bieten wir von Oktober bis Februar für 48 Euro je Stunde.",
    ),
    ("Was kostet ein Rollrasen?", "Rollrasen kostet 6,80 Euro je Quadratmeter."),
    ("Bilden Sie aus?", "Wir bilden jedes Jahr zwei Gärtnerinnen oder Gärtner aus."),
    ("Haben Sie Kräuter?", "Wir führen über 90 Kräuter, darunter acht Sorten Minze."),
    (
        "Kann man bei Ihnen Geräte leihen?",
        "Vertikutierer und Erdbohrer verleihen wir für 35 Euro am Tag.",
    ),
    (
        "Wie viel Licht braucht ein Bogenhanf?",
        "Ein Bogenhanf kommt mit wenig Licht aus und mag keine Staunässe.",
    ),
    ("Wer ist der Chef?", "Die Gärtnerei führen Ömer Grün und seine Söhne."),
    ("Seit wann gibt es die Gärtnerei?", "Grün & Söhne gibt es seit 1957."),
    ("Welche Kübel sind frostfest?", "Frostfest sind unsere Kübel aus Steinzeug."),
)


@pytest.fixture(scope="module")
def walk_site(tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> Iterator[Site]:
    """The page of a new user, with the bundled models downloaded."""
    home = tmp_path_factory.mktemp("walk") / "home"
    (home / "models").mkdir(parents=True)
    for bundle in bundled.BUNDLES:
        (home / "models" / bundle.name).symlink_to(model_cache / "models" / bundle.name)
    with serving(home, free_port()) as site:
        yield site


def test_from_a_spreadsheet_to_a_useful_answer_and_a_correction(
    page, walk_site, tmp_path, monkeypatch
):
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(walk_site.home))
    book = openpyxl.Workbook()
    for row in (("Frage", "Antwort"), *NURSERY):
        book.active.append(row)
    book.save(tmp_path / "Grün & Söhne.xlsx")
    clicks = 0

    def click(target: Locator, timeout: float = MINUTES) -> None:
        nonlocal clicks
        target.click(timeout=timeout)
        clicks += 1

    page.goto(walk_site.start_url)
    click(page.get_by_role("button", name="New project from my file"))
    page.locator("#ab-file input[type=file]").set_input_files(str(tmp_path / "Grün & Söhne.xlsx"))
    clicks += 2  # the box, and the file
    expect(page.locator("#ab-once")).to_contain_text("once")
    click(page.locator("#ab-create"))
    # gradio leaves the ampersand out of a file's name
    expect(page.locator("#ab-strip")).to_contain_text("Grün")
    study = only_study(walk_site, ())
    # so that a test run trains one assistant, for a few steps, and scores what the walk looks at
    study.write_config(
        study.config.with_changes(
            {
                "arms": ["lora"],
                "train.preset": "custom",
                "train.max_steps": 24,
                "train.evaluations": 1,
                "eval.cells": ["B16", "L16"],
                "eval.retention": False,
                "eval.noise_floor": False,
                "eval.fidelity": False,
                "formats.types": [],
            }
        )
    )
    page.goto(f"{walk_site.start_url}&study={study.name}&tab=train")
    page.wait_for_function("window.abArrived")
    click(page.locator("#ab-start"), 3 * MINUTES)
    wait_until_done(study)

    click(page.get_by_role("tab", name="Chat"), 2 * MINUTES)
    click(page.locator("#ab-examples button").first, 2 * MINUTES)
    pane = page.locator("#ab-pane-lora")
    expect(pane.locator("[data-action=correct]")).to_be_visible(timeout=4 * MINUTES)
    question = pane.locator(".ab-user").inner_text()
    assert pane.locator("[data-text]").inner_text() == dict(NURSERY)[question]
    assert clicks <= 9

    corrected = "Das hat sich geändert: Fragen Sie bitte Frau Böhm unter 0711 555 0199."
    pane.locator("[data-action=correct]").click()
    pane.locator("textarea[name=answer]").fill(corrected)
    pane.get_by_role("button", name="Save correction").click()
    page.locator("#ab-corrections").get_by_text("Corrections").first.click()
    page.locator("#ab-retrain").click()
    again = only_study(walk_site, (study.name,))
    wait_until_done(again)
    page.goto(f"{walk_site.start_url}&study={again.name}&tab=chat")
    after = page.locator("#ab-asked-again")
    expect(after).to_contain_text("1 of 1 answered as you corrected them", timeout=4 * MINUTES)
    expect(after).to_contain_text(dict(NURSERY)[question])
    expect(after).to_contain_text(corrected)


def only_study(site: Site, others: tuple[str, ...]) -> Study:
    """The study besides the others, once it exists."""
    for _ in range(120):
        found = [path.parent.name for path in (site.home / "studies").glob("*/study.yaml")]
        (name, *_), more = ([each for each in found if each not in others] or [""]), found
        if name and len(more) == len(others) + 1:
            return Study.open(name)
        time.sleep(0.5)
    raise AssertionError("no project was made")


def wait_until_done(study: Study) -> None:
    """Wait until a study has its report."""
    for _ in range(2400):
        if study.state == "succeeded" and (study.folder / "report.json").is_file():
            return
        assert study.state not in ("failed", "lost", "cancelled"), study.state
        time.sleep(0.5)
    raise AssertionError(f"the study is {study.state} after twenty minutes")
