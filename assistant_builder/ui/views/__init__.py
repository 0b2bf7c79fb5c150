"""Records into markup and figures. Pure: no gradio, no files, no model."""
