"""What is shown of an object's bytes. Pure: bytes and names in, rows and escaped HTML out; no I/O, no database.

Everything here takes what anybody may have stored. So every format is read up to a limit of bytes, rows and depth, by
parsers whose time grows with what they read; and all that comes out is text, or HTML that `format_html` made.
"""
