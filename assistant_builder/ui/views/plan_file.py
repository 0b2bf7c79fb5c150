"""A plan as one HTML file that needs nothing beside it: chart, tables and styles."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from assistant_builder.errors import ConfigError
from assistant_builder.files import write_text
from assistant_builder.planning.advice import advise
from assistant_builder.planning.plan import Plan
from assistant_builder.ui.plan_figure import plan_figure
from assistant_builder.ui.views.plan import plan_panel, verdict
from evals.report.wording import count

_STYLES = Path(__file__).parents[1] / "styles"
_PAGE = Markup("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Plan for {title}</title><style>{style}</style></head>
<body class="gradio-container ab-plan-file"><main><h1 dir="auto">Plan for {title}</h1><p>{about}</p>
{verdict}<section class="ab-card"><h3>Memory of one training step</h3>{chart}</section>{panel}</main></body></html>
""")


def write_plan_file(plan: Plan, path: Path) -> None:
    """Write a plan as a self-contained HTML file.

    Raises:
        ConfigError: The file cannot be written.
    """
    chart = Markup(plan_figure(plan).to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False}))
    style = Markup("\n".join((_STYLES / name).read_text(encoding="utf-8") for name in ("page.css", "plan.css")))
    about = f"{count(plan.architecture.parameters)} parameters, on {plan.machine.name}."
    page = _PAGE.format(title=plan.model, style=style, about=about, verdict=verdict(plan, advise(plan)), chart=chart,
                        panel=plan_panel(plan))
    try:
        write_text(path, page)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", where="--html",
                          remedy="Name a file in a folder that you may write to") from error
