"""Looking up training pairs: the index, search, and recall on validation questions. Importing it loads no torch."""
