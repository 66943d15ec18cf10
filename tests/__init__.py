"""Tests, in tiers named by what they touch: unit, integration, faults, acceptance.

`support` is what they share, `machine` what boots a kernel, `chaos` what breaks things at random for minutes.
"""
