"""The page. ``build_app`` and ``launch`` live in :mod:`assistant_builder.ui.app`; gradio is imported nowhere else."""
