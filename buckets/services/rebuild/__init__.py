"""The database, made anew from the volumes alone.

read every volume ── newest whole snapshot ── entries in order ── needles that came after ── judge, count, report
   (run)                (history)               (loading)           (late)                     (run, report)
"""
