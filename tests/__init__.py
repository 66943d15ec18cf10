"""Tests, in tiers named by what they touch: unit, integration, faults, acceptance."""
