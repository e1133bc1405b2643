"""Audits of many stages in one table: what `mtard-compare` does.

commands.compare.run(...) -> trains and audits what is missing, then writes the table
comparison.compare(...)   -> the whole table as one dict, from the audits' files
"""
