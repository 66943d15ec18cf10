"""Decisions about what the cloud says to the device: twin, commands, method calls, and who may take part.

Names
-----

The worker is `management`, `[program:management]` in supervisord.conf. Its settings stand in `[management]`,
those of programs in `[management.program.NAME]`. Its database is `state/management.db`, which only it writes.
Programs connect to `management.sock` in the home, `upload` to `run/hub-line.sock`. Results of
commands go to `ingest` in the stream `command-results`.

Modules
-------

- `twin_rules`, `twin`: documents, their rules, merge and difference.
- `twin_record`, `twin_reading`, `twin_reports`, `twin_sync`: the twin on disk, and how it comes to equal the
  hub's.
- `command_record`, `command_steps`, `command_queue`, `command_results`: commands, from the hub to their final
  state, and the message that says so.
- `call_record`, `calls`: method calls.
- `waiting`, `names`, `grants`: long polls, patterns of names, and who may do what.
- `codes`, `requests`, `replies`, `strict_json`, `protocol`: what programs say and are told; the one codec.

How a shell drives it
---------------------

Each of `twin_sync`, `command_queue` and `calls` has a state that is a value, and one function: `after(state,
event, now...)` returns the next state and a list of actions. A turn of the worker is:

1. Take what came: frames of programs (`protocol.decode_request`, then the check in `grants`), frames of
   `upload`, processes that ended. Make events of them. With some events goes a row that is looked up in the
   database first (`known`); a look-up sees what this turn has saved before.
2. Call `after` for each, and carry out its `Save...` actions in the open transaction.
3. Commit. Where the commit fails, keep the states from before the turn, and answer the programs `disk_full`
   or `store_unavailable`; the hub is acknowledged nothing. Then ask for the twin again (`TwinRefreshAsked`):
   a patch of desired may have been dropped.
4. Carry out the other actions, in order: publish, acknowledge, answer, send results. An action never has to
   come before a `Save...` that stands behind it, so that one commit may serve a whole turn.
5. Sleep until the next thing comes, or until `due_s` or `wait_s` says that a tick is due.

At its start the worker reads the record of the twin, the open commands, and the final ones whose results are
not stored (`command_queue.started`). It gives `twin_sync` a session that no process before it had, reports
`HolderGone` for each process in a lease that is no longer there, and `TwinLinkUp` when `upload` says that the
connection is up and the hub has granted the subscriptions. Beside the database stands the highest `seq` ever
given; a database that is behind it is a restored copy.

Requests of operators (`requests.OPERATOR_REQUESTS`, from `edgectl`) come on the same socket, and are checked
with `grants.check_operator`. `requeue` and `drop` become RequeueAsked and DropAsked with the row on disk; a
`call` becomes CallReceived with `call_record.OPERATOR_CLIENT` and an `rid` of the shell's own, and its
RespondToCall becomes the reply OperatorAnswer instead of a publish.

All clocks are arguments: `twin_sync` takes seconds of a clock that does not jump, the others a `Moment`.
"""
