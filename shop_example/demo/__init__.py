"""Plays the shop's operations over HTTP, as clients would, without the guard and with it."""
