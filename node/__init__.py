"""Ganger's agent, one per machine: takes assignments from the coordinator and runs them in worker processes."""
