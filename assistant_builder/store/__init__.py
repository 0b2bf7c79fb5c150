"""Studies in an object store: one machine at a time runs a study there, and another one can resume it.

Only studies with ``executor.store`` use this package, and cluster nodes that share no folder with the run.
"""
