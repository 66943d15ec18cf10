"""`make chaos`: break everything at random for minutes or hours, then count. Read in this order:

plan.py        what is broken, when and whom it hits: a pure function of seed and minutes
scene.py       the runtime as it ships, its cloud, its producers, on a disk and under a clock of its own
manager.py     what systemd would do: start again, watch the watchdog
at_processes.py, at_hub.py, at_platform.py, at_machine.py   how each kind is done, and how its effect is seen
watch.py       memory, threads, descriptors and doubles, once a second
verdict.py     what must be true in the end
run.py         all of it, in order
"""
