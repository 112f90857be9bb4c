"""Intake, prediction and delivery by one command, once or for an inbox that is watched."""
