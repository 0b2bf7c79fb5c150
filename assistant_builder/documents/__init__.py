"""Documents as a source: reading them, the statements that they make, and what changed since they were read.

A document (PDF, DOCX, HTML, Markdown, text) is read in a process with limits (:mod:`.reading`) into blocks, and its
blocks become statements of one or a few sentences, each with file, page, heading and span (:mod:`.statements`). A study
keeps them in its folder ``documents`` (:mod:`.store`), beside its pairs. No model is needed for it.
"""
