"""The page: ``python app.py`` prints its address at port 7860 (another one: ``GRADIO_SERVER_PORT``)."""

from __future__ import annotations

import os

from assistant_builder.cli import output
from assistant_builder.errors import ConfigError
from assistant_builder.ui.app import build_app
from assistant_builder.ui.server import serve_page
from assistant_builder.web.access import Access

page = build_app()
demo = page.demo

if __name__ == "__main__":
    try:
        serve_page(lambda: page, Access(port=int(os.environ.get("GRADIO_SERVER_PORT", "7860"))))
    except ConfigError as error:
        output.fail(error)
