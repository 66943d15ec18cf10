"""The stand-in platform: strict, on loopback, never on a device (extra `[devcloud]`).

The map, in reading order:

    server.py    the process: HTTPS and hub in one loop; addresses.py, tls.py: where, and with which keys
    state/       what is known, in one database; cloud.py is the seam between HTTPS and hub
    http/        what devices, operators and tests call; approval_page.py: where a person approves and watches
    mqtt/        the hub: broker.py, connection.py, conversation.py; pure: codec, packets, topics, frames
    dps.py       Azure's DPS over MQTT
    remote.py    how a script calls a running one
"""
