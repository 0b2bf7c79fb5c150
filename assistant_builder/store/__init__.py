"""Sync of studies with an object store, so that another machine can resume them; used with ``executor.store`` only."""
