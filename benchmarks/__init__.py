"""Measurements that need hardware which is not everywhere; run from a clone, not part of the package."""
