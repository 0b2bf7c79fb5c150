"""The page on a study whose files cannot be read."""

from assistant_builder.atomic_io import write_text
from assistant_builder.ui.app import build_app
from assistant_builder.ui.refresh import LiveRegion, StudyView, page_versions
from assistant_builder.ui.train import tab as train_tab
from tests.synthetic_study import evaluated, new_study, trained, with_data
from tests.ui.blocks import inside_blocks, train_values, wired_train_tab


def test_a_damaged_study_can_be_run_again(monkeypatch):
    started: list[tuple[str, bool]] = []
    monkeypatch.setattr(train_tab, "start_run", lambda name, redo: started.append((name, redo)))
    tab, study = wired_train_tab(), new_study()
    write_text(study.folder / "data" / "status.json", "{")
    drawn = tab._draw_run(StudyView(study.name))
    assert drawn[tab.start]["interactive"] and drawn[tab.replace]["visible"]
    shown = drawn[tab.panel]
    assert "Tick “Replace results” on the Train tab" in shown and "--redo" not in shown
    tab._start(train_values(tab, study.name, study.config, replace=True))
    assert started == [(study.name, True)]


def test_the_page_can_be_polled_with_damaged_settings():
    study = new_study()
    page = inside_blocks(build_app)
    write_text(study.folder / "study.yaml", "{")
    whole, parts = page_versions(page.sections, StudyView(study.name))
    assert whole and len(parts) == len(page.sections)


def test_the_page_of_a_study_with_the_report_of_an_earlier_release_is_drawn():
    page = inside_blocks(build_app)
    study = evaluated(trained(with_data(new_study())))
    write_text(study.folder / "report.json", '{"version": 1}')
    look = StudyView(study.name)
    whole, parts = page_versions(page.sections, look)
    assert whole and len(parts) == len(page.sections)
    unreadable = [section.key for section in page.sections if _fails(section, look)]
    assert unreadable == [], unreadable


def _fails(section: LiveRegion, look: StudyView) -> bool:
    try:
        section.mark(look)
        section.draw(look)
    except Exception:
        return True
    return False
