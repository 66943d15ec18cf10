"""The stand-in platform: strict, on loopback, never on a device (extra `[devcloud]`).

The map, in reading order:

    server.py         the process: HTTPS and hub in one loop; place.py and tls.py: where, and with which keys
    state.py          Cloud: all that is known, and the seam between HTTPS and hub; values.py: what they say
    platform_api.py   what devices call: provisioning, refresh, registration
    operators.py      what people and scripts call; devices.py: the same for devices that are in
    page.py           the page, page.html, where a person approves and watches
    https_messages.py telemetry over HTTPS; hub_https.py: what the hub's HTTPS calls share
    file_upload.py    uploads, the hub's part; blobs.py: the storage's part; uploads.py: what is on disk
    admin.py          what tests call: faults, drops, tokens that end; remote.py: how to call it
    hub.py            the MQTT side; connection.py, dialogue.py, sessions.py; websocket.py: the same over 443;
                      pure: mqtt.py, packets.py, topics.py, acks.py, frames.py
    enrolment.py      Provisioning Tokens and operations; registrations.py: devices and Registration Tokens
    certificates.py   client certificates of devices
    dps.py            Azure's DPS over MQTT; dps_enrolments.py: who may be assigned; dps_api.py: who says so
    records.py        every message and connection, in order of arrival; twins.py: desired and reported
    tokens.py         signing and checking tokens and SAS, pure; lifetimes.py: how long they count
    faults.py         what it is told to do wrong; misbehave.py: the same over HTTP
    web.py            JSON in, JSON or problem+json out; problems.py: what is refused
    database.py       devcloud.db, alone with sqlite3 here; files.py: files that are whole or not there
"""
