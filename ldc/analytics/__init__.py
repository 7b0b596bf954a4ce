"""Exact analytics of order books, and `BookView`, a book at one moment, which offers them in plain Python."""
