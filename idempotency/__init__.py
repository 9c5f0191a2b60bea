"""Retried operations that happen once."""

__version__ = "0.1.0"
