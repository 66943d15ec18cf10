"""The stand-in platform: strict, on loopback, never on a device (extra `[devcloud]`).

The map, in reading order:

    values.py        what the two halves say to each other
    state.py         Cloud: all that is known, and the seam between the halves
    database.py      devcloud.db, the only importer of sqlite3 here
    tokens.py        signing and checking tokens and SAS, pure
    records.py       every message and connection, in order of arrival
    twins.py         desired and reported properties
    hub.py           the MQTT side
    faults.py        what it is told to do wrong
"""
