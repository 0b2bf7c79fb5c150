"""The tab "Use it": endpoints, files and folders of an assistant."""
