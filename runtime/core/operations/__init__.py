"""Judgements for operators: health, verdicts and diagnoses out of what was observed."""
