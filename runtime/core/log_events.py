"""Log events: the stable name of every warning and error, what it means and what an operator does.

Each line of that gravity carries its event, so that a machine can count and match them whatever the words
say. docs/events.md is made from this file. A name that was released stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class LogEvent(StrEnum):
    """The events. The value is what stands in the log."""

    ALARM_COMMAND_FAILED = "alarm_command_failed"
    APPROVAL_AWAITED = "approval_awaited"
    CLIENT_NOT_DISCARDED = "client_not_discarded"
    COLLECTOR_REFUSES = "collector_refuses"
    COMMAND_NOT_HANDLED = "command_not_handled"
    COMPRESSION_MISSING = "compression_missing"
    CONFIGURATION_NOT_TAKEN = "configuration_not_taken"
    CONFIGURATION_WARNING = "configuration_warning"
    CONNECTION_CUT = "connection_cut"
    COUNTERS_CORRECTED = "counters_corrected"
    CRASHED = "crashed"
    EVERYTHING_RESTARTED = "everything_restarted"
    FILE_CHANGED = "file_changed"
    FILE_NOT_GIVEN_BACK = "file_not_given_back"
    FILE_UPLOAD_BUG = "file_upload_bug"
    FILE_UPLOAD_FAILED = "file_upload_failed"
    HOME_COPIED = "home_copied"
    IDENTITY_DAMAGED = "identity_damaged"
    IDENTITY_STATE = "identity_state"
    IDENTITY_UNREADABLE = "identity_unreadable"
    INDEX_MISSING = "index_missing"
    LIBRARY_CHANGED = "library_changed"
    LINK_SWITCH_UNREADABLE = "link_switch_unreadable"
    REMOTE_CONFIG_NOT_TAKEN = "remote_config_not_taken"
    REMOTE_CONFIG_NOT_SAVED = "remote_config_not_saved"
    MANAGEMENT_MUTED = "management_muted"
    MANAGEMENT_DAMAGED = "management_damaged"
    MANAGEMENT_NOT_KEPT = "management_not_kept"
    MANAGEMENT_RESTORED = "management_restored"
    MANAGEMENT_SOCKET_CLOSED = "management_socket_closed"
    MESSAGES_LOST = "messages_lost"
    MESSAGE_SET_ASIDE = "message_set_aside"
    NOTHING_DELIVERABLE = "nothing_deliverable"
    OBSERVER_CANNOT_LISTEN = "observer_cannot_listen"
    PLATFORM_DATE_WRONG = "platform_date_wrong"
    PLATFORM_TIME_UNREADABLE = "platform_time_unreadable"
    PRODUCERS_REFUSED = "producers_refused"
    PRODUCER_SOCKET_CLOSED = "producer_socket_closed"
    PROVISIONING_FAILED = "provisioning_failed"
    OVER_BUDGET = "over_budget"
    QUOTA_USED_UP = "quota_used_up"
    REGISTRATION_TOKEN_DEAD = "registration_token_dead"  # noqa: S105 no secret
    REBOOT_FAILED = "reboot_failed"
    RENEWAL_FAILED = "renewal_failed"
    REQUEST_BUG = "request_bug"
    RESULT_LOST = "result_lost"
    RUN_NOT_WRITABLE = "run_not_writable"
    SAS_REFUSED = "sas_refused"
    SCHEMA_BIT_FLIPPED = "schema_bit_flipped"
    SECRET_FILE_GARBLED = "secret_file_garbled"  # noqa: S105 no secret
    SECRET_FILE_OPEN = "secret_file_open"  # noqa: S105 no secret
    SOCKET_GONE = "socket_gone"
    SOCKET_MADE_AGAIN = "socket_made_again"
    STORE_ALARM = "store_alarm"
    STORE_BLOCKS_UNREADABLE = "store_blocks_unreadable"
    STORE_DAMAGE_SEEN = "store_damage_seen"
    STORE_FAILED = "store_failed"
    STORE_REPLACED = "store_replaced"
    STORE_SALVAGED = "store_salvaged"
    STRAY_FILE_REMOVED = "stray_file_removed"
    SUBSCRIPTION_REFUSED = "subscription_refused"
    SUPERVISOR_KILLED = "supervisor_killed"
    SUPERVISOR_SILENT = "supervisor_silent"
    THREAD_ENDED = "thread_ended"
    UPDATE_CAME_BACK = "update_came_back"
    UPLOAD_RESTARTS = "upload_restarts"
    WAITING_FOR_A_PERSON = "waiting_for_a_person"
    WAITING_FOR_THE_DISK = "waiting_for_the_disk"
    WAL_GROWS = "wal_grows"
    WATCHDOG_WITHHELD = "watchdog_withheld"
    WORKER_ALARM = "worker_alarm"
    WORKER_KILLED = "worker_killed"
    WORKER_NOT_STARTED = "worker_not_started"
    WORKER_STARTED_AGAIN = "worker_started_again"
    WORKER_STARTS_AFRESH = "worker_starts_afresh"


@dataclass(frozen=True, slots=True)
class EventText:
    """The meaning of an event, and what to do."""

    meaning: str
    remedy: str


EVENT_TEXTS: Mapping[LogEvent, EventText] = {
    LogEvent.ALARM_COMMAND_FAILED: EventText(
        "The alarm command failed, hung or is missing.",
        "Correct `alarm.command`.",
    ),
    LogEvent.APPROVAL_AWAITED: EventText(
        "The device waits for an operator's approval.",
        "Approve the verification code at the platform.",
    ),
    LogEvent.CLIENT_NOT_DISCARDED: EventText(
        "A connection's client cannot be ended, so upload starts again.",
        "Nothing; where it repeats, keep the log for a report.",
    ),
    LogEvent.COLLECTOR_REFUSES: EventText(
        "The collector did not take the metrics.",
        "Check `observer.otlp_url` and the collector.",
    ),
    LogEvent.COMMAND_NOT_HANDLED: EventText(
        "The hub sent a command, a method or a twin change that this device does not handle.",
        "Switch `management` on, or stop sending.",
    ),
    LogEvent.COMPRESSION_MISSING: EventText(
        "A stream asks for compression that is not installed.",
        "Install the extra `compress`.",
    ),
    LogEvent.CONFIGURATION_NOT_TAKEN: EventText(
        "A change of the configuration was refused, or waits for a restart.",
        "Correct the file, or `edgectl reload`.",
    ),
    LogEvent.CONFIGURATION_WARNING: EventText(
        "A part of the configuration or the environment means nothing.",
        "Correct the name that the line gives.",
    ),
    LogEvent.CONNECTION_CUT: EventText(
        "A producer's connection is cut, so that others are served.",
        "The line names the process or the address.",
    ),
    LogEvent.COUNTERS_CORRECTED: EventText(
        "The store's counters were wrong and are put right.",
        "Report it.",
    ),
    LogEvent.CRASHED: EventText(
        "A worker crashed; it is started again.",
        "Report it with the crash report in log/.",
    ),
    LogEvent.EVERYTHING_RESTARTED: EventText(
        "All workers are restarted.",
        "Keep the logs for a report.",
    ),
    LogEvent.FILE_CHANGED: EventText(
        "A file was changed while it was sent, and is sent from the start.",
        "Have the producer leave files alone once they are handed over.",
    ),
    LogEvent.FILE_NOT_GIVEN_BACK: EventText(
        "A file that was refused cannot go back to the drop folder.",
        "Look at the folder's rights.",
    ),
    LogEvent.FILE_UPLOAD_BUG: EventText(
        "A bug of the runtime met a file upload, which is repeated.",
        "Report it with the traceback.",
    ),
    LogEvent.FILE_UPLOAD_FAILED: EventText(
        "A file upload failed and is repeated.",
        "The words are the hub's or the storage's.",
    ),
    LogEvent.HOME_COPIED: EventText(
        "The home was copied from another machine or disk, and its store goes on under a name of its own.",
        "Where the first one runs on: `edgectl provision --reset` on the copy. Where it was moved: "
        "`edgectl identity --moved`.",
    ),
    LogEvent.IDENTITY_DAMAGED: EventText(
        "identity.db was damaged and is set aside.",
        "An operator approves the device again, unless a token was given by hand.",
    ),
    LogEvent.IDENTITY_STATE: EventText(
        "The state of the identity has changed for the worse.",
        "`edgectl identity`.",
    ),
    LogEvent.IDENTITY_UNREADABLE: EventText(
        "upload cannot read the identity.",
        "The line says why; `edgectl doctor`.",
    ),
    LogEvent.INDEX_MISSING: EventText(
        "There is no room for an index of the store.",
        "Make room.",
    ),
    LogEvent.LIBRARY_CHANGED: EventText(
        "azure-iot-device is another one inside than expected.",
        "Install the pinned version; it goes on more slowly.",
    ),
    LogEvent.LINK_SWITCH_UNREADABLE: EventText(
        "The kill switch cannot be looked for: nothing is sent.",
        "Look at the disk.",
    ),
    LogEvent.REMOTE_CONFIG_NOT_TAKEN: EventText(
        "Settings from the cloud were refused, or taken back because the hub was not reached with them.",
        "The line has the reason; correct `/runtime/config` in the twin.",
    ),
    LogEvent.REMOTE_CONFIG_NOT_SAVED: EventText(
        "Settings from the cloud cannot be kept on disk, or what was kept cannot be read.",
        "Look at the disk, and at `state/remote-config.json`; what holds is in `edgectl config`.",
    ),
    LogEvent.MANAGEMENT_MUTED: EventText(
        "The hub ended connections over the twin, commands or methods: telemetry goes on alone.",
        "Choose a tier with device management, or switch `management` off.",
    ),
    LogEvent.MANAGEMENT_DAMAGED: EventText(
        "The database of twin and commands is damaged and was set aside; the line names the commands in it.",
        "Send those commands again where they are still wanted; keep the file for a report.",
    ),
    LogEvent.MANAGEMENT_NOT_KEPT: EventText(
        "The worker management cannot write: commands stay at the hub, and programs are refused.",
        "Make room, or look at the disk.",
    ),
    LogEvent.MANAGEMENT_RESTORED: EventText(
        "An older copy of management.db was brought back: the commands open in it are uncertain.",
        "Look at the uncertain commands, and requeue those that were not done.",
    ),
    LogEvent.MANAGEMENT_SOCKET_CLOSED: EventText(
        "The socket of programs cannot be opened as the settings say.",
        "Look at `management.group`, and at the home folder.",
    ),
    LogEvent.MESSAGES_LOST: EventText(
        "Messages were lost, with their ids and the reason.",
        "`expired`, `over_budget` and the policies are limits of yours; the others are damage.",
    ),
    LogEvent.MESSAGE_SET_ASIDE: EventText(
        "A message goes to quarantine.",
        "`edgectl quarantine show ID`; requeue or drop it.",
    ),
    LogEvent.NOTHING_DELIVERABLE: EventText(
        "Rows have a form that this version does not know.",
        "Install the version that wrote them.",
    ),
    LogEvent.OBSERVER_CANNOT_LISTEN: EventText(
        "The observer's address is taken, or none of this machine.",
        "Change `observer.listen`, or end the other program.",
    ),
    LogEvent.PLATFORM_DATE_WRONG: EventText(
        "The platform's Date is not believed.",
        "Set the platform's clock, or this device's.",
    ),
    LogEvent.PLATFORM_TIME_UNREADABLE: EventText(
        "A time in the platform's answer cannot be read.",
        "Nothing here; the platform's operator should know.",
    ),
    LogEvent.PRODUCERS_REFUSED: EventText(
        "Requests are refused with this code.",
        "The code's row in docs/protocol.md.",
    ),
    LogEvent.PRODUCER_SOCKET_CLOSED: EventText(
        "A socket for producers cannot be opened and is tried again.",
        "The line says why.",
    ),
    LogEvent.PROVISIONING_FAILED: EventText(
        "A call of provisioning failed and is repeated.",
        "Its `reason`; `edgectl doctor`.",
    ),
    LogEvent.OVER_BUDGET: EventText(
        "`link.units_per_day` or `units_per_month` cannot hold what waits and comes by the end of the day or "
        "month, even in full packs.",
        "Raise the budget, pack, or say in `over_budget` of the stream what gives way; what went is counted "
        "as `over_budget` in `edgectl ledger`.",
    ),
    LogEvent.QUOTA_USED_UP: EventText(
        "The hub's daily quota is used up.",
        "Nothing until 00:00 UTC; raise the hub's units.",
    ),
    LogEvent.REGISTRATION_TOKEN_DEAD: EventText(
        "The platform knows the Registration Token no more.",
        "An operator approves the device again; `edgectl status` shows the code.",
    ),
    LogEvent.REBOOT_FAILED: EventText(
        "The cloud asked for a reboot, and the program for it could not be started.",
        "Look at `management.reboot_command`, and at what its user may do.",
    ),
    LogEvent.RENEWAL_FAILED: EventText(
        "Registration or renewal failed and is repeated.",
        "Its `reason` is the platform's or the network's; `edgectl doctor`.",
    ),
    LogEvent.REQUEST_BUG: EventText(
        "A bug of the runtime met a request, which was refused.",
        "Report it with the place that the line gives.",
    ),
    LogEvent.RESULT_LOST: EventText(
        "The result of a command was refused for ever; it is counted, and the command stays in the list.",
        "The line has the reason; tell who sent the command.",
    ),
    LogEvent.RUN_NOT_WRITABLE: EventText(
        "run/ takes no writes: progress cannot be shown, and no worker is killed.",
        "Look at the disk.",
    ),
    LogEvent.SAS_REFUSED: EventText(
        "The hub refused the SAS in force.",
        "Nothing: it is renewed, and after repeated refusals the device is registered again.",
    ),
    LogEvent.SCHEMA_BIT_FLIPPED: EventText(
        "The store's version is a flipped bit.",
        "Look at the disk's health.",
    ),
    LogEvent.SECRET_FILE_GARBLED: EventText(
        "A file that should hold a token holds something else.",
        "Write the token into it, as one word.",
    ),
    LogEvent.SECRET_FILE_OPEN: EventText(
        "A file with a secret is open to other users.",
        "`chmod 600` it.",
    ),
    LogEvent.SOCKET_GONE: EventText(
        "A socket's path was removed and cannot be made again.",
        "Make room; find out what removes it.",
    ),
    LogEvent.SOCKET_MADE_AGAIN: EventText(
        "A socket's path was removed and is there again.",
        "Find out what cleans that folder.",
    ),
    LogEvent.STORE_ALARM: EventText(
        "The store cannot be used, or was replaced.",
        "The line says which; `edgectl status`.",
    ),
    LogEvent.STORE_BLOCKS_UNREADABLE: EventText(
        "Blocks of the store's file cannot be read.",
        "Replace the disk.",
    ),
    LogEvent.STORE_DAMAGE_SEEN: EventText(
        "upload met damage in the store, and ingest is to salvage it.",
        "Nothing; see STORE_SALVAGED.",
    ),
    LogEvent.STORE_FAILED: EventText(
        "A request to the store failed.",
        "Full: make room. Newer: install the newer version. Damaged: it is salvaged.",
    ),
    LogEvent.STORE_REPLACED: EventText(
        "messages.db is an older copy: ids that were given are not in it.",
        "Find out who put it back; the ids are named.",
    ),
    LogEvent.STORE_SALVAGED: EventText(
        "The store was damaged, and what could be read goes on.",
        "The losses are counted in the line; look at the disk.",
    ),
    LogEvent.STRAY_FILE_REMOVED: EventText(
        "A file without a message was removed.",
        "Nothing: a crash left it.",
    ),
    LogEvent.SUBSCRIPTION_REFUSED: EventText(
        "The hub refused to send the twin, commands or methods.",
        "Check the hub's tier and the device's rights.",
    ),
    LogEvent.SUPERVISOR_KILLED: EventText(
        "supervisord was silent and is killed.",
        "Nothing: its service manager starts it again.",
    ),
    LogEvent.SUPERVISOR_SILENT: EventText(
        "supervisord did not answer the sentinel.",
        "Nothing: it is killed and started again where it stays silent.",
    ),
    LogEvent.THREAD_ENDED: EventText(
        "A thread of a worker ended by an exception.",
        "Report it.",
    ),
    LogEvent.UPDATE_CAME_BACK: EventText(
        "A new version did not confirm itself, and the version before is in service again.",
        "The line has the reason; `edgectl update status` keeps it. Correct it, and apply another bundle.",
    ),
    LogEvent.UPLOAD_RESTARTS: EventText(
        "upload cannot go on in this process and is started again.",
        "Nothing; where it repeats, keep the log for a report.",
    ),
    LogEvent.WAITING_FOR_A_PERSON: EventText(
        "A worker cannot go on by itself.",
        "The line says what helps.",
    ),
    LogEvent.WAITING_FOR_THE_DISK: EventText(
        "A worker waits for a disk that takes no writes.",
        "Make room, or look at the disk.",
    ),
    LogEvent.WAL_GROWS: EventText(
        "A reader keeps the store's write-ahead log from being cut.",
        "The line names the process; end it.",
    ),
    LogEvent.WATCHDOG_WITHHELD: EventText(
        "Restarting everything did not help: the service manager restarts the unit.",
        "Keep the logs for a report.",
    ),
    LogEvent.WORKER_ALARM: EventText(
        "The sentinel raises an alarm about a worker, with its last lines.",
        "The alarm's row in the runbook.",
    ),
    LogEvent.WORKER_KILLED: EventText(
        "A worker that made no progress is killed.",
        "Its stacks are in its log right before; report them.",
    ),
    LogEvent.WORKER_NOT_STARTED: EventText(
        "A worker could not be started.",
        "`log/supervisord.log` has the reason.",
    ),
    LogEvent.WORKER_STARTED_AGAIN: EventText(
        "A worker that supervisord gave up is started again.",
        "Its log says why it ended.",
    ),
    LogEvent.WORKER_STARTS_AFRESH: EventText(
        "A worker is asked to start again.",
        "Nothing; the line says why.",
    ),
}
