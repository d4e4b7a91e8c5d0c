"""The command line: one file per verb, and the only place that prints or exits.

`main.py` is the entry, `app.py` the parser and the table of verbs, `options.py` what stands before or after any verb,
`terminal.py` how things are said, `progress.py` how work is shown, `site.py` what the verbs that touch clusters share.
Verbs import what they work with inside their function, so that `--help` and completion stay quick.
"""
