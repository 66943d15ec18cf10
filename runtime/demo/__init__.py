"""The whole runtime at work, in about a minute, on this machine's own metrics.

stage.py      the processes: stand-in cloud and supervised runtime, in a folder that goes away again
metrics.py    what this machine can tell about itself
producers.py  who sends, and the ledger of what was acknowledged
tally.py      acknowledged against delivered: the table at the end, pure
voice.py      live progress for a terminal, plain lines for a pipe
script.py     what happens, in the order in which it happens
"""
