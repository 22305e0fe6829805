"""The processes of a run: process group, communication and watchdog."""
