"""The web page. :mod:`assistant_builder.ui.app` builds and launches it; only this package imports gradio."""
