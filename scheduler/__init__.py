"""Ganger's coordinator: holds the queue and the schedule, places jobs on nodes, keeps outcomes."""
