"""Unique ids: what they promise beside the contract of every guard (tests/guards/test_unique_ids.py)."""
