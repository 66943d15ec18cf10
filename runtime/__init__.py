"""Edge runtime: a producer that holds an acknowledgement has its message on disk; the cloud gets it.

The map, in reading order:

    core/        decisions, pure: no socket, disk, clock, randomness or logging comes in by import
    adapters/    one outside thing per file, no business decisions
    workers/     thin loops that connect one with the other; one process each
    operations/  what looks at a whole runtime: overview, doctor
    settings.py  every setting: data only
    config.py    the only reader of the configuration file and the environment
    wiring.py    the values that adapters and core take, made of the settings
    layout.py    where every file and socket of one runtime lives
    producer.py  the client that applications import
    cli/         the command line `edgectl`
    devcloud/    the stand-in platform, never on a device
    demo/        the whole runtime at work in a minute
    bench/       `make bench`

docs/architecture.md walks through them.
"""

__version__ = "0.1.0"
