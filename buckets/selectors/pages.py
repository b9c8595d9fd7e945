"""How much one page of a list holds, and looks at."""

MAX_PAGE = 1000
MAX_LOOKED_AT = 20_000
"""Rows that a page looks at where it can't step from one that is wanted to the next. A page that found few is short,
and says how to go on: a filter that hardly ever matches must not hold a thread through millions of rows."""
