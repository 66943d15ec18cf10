"""The stand-in platform: strict, on loopback, never on a device (package edge-devcloud).

The map, in reading order:

    server.py    the process: HTTPS and hub in one loop; addresses.py, tls.py: addresses and keys
    state/       the state, in one database; cloud.py is the interface between HTTPS and hub
    http/        for devices, operators and tests; approval_page.py: a person approves, watches, manages
    mqtt/        the hub: broker.py, connection.py, conversation.py with its twin_channel.py and
                 command_channel.py; pure: codec, packets, topics
    dps.py       Azure's DPS over MQTT
    remote.py    a script's client of a running stand-in
"""
