"""The whole runtime at work, in about a minute, on this machine's own metrics.

stage.py      the processes: stand-in cloud and supervised runtime, in a folder that goes away again
metrics.py    this machine's metrics
producers.py  the producers, and the ledger of acknowledged messages
tally.py      acknowledged against delivered: the table at the end, pure
console.py    live progress for a terminal, plain lines for a pipe
script.py     the events of the demo, in order
"""
