"""Plays the first three scenarios over HTTP, as clients would, without the guard and with it."""
