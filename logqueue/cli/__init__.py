"""`logqueue`, the command line of those who use and keep queues; `command.py` is where it starts.

Each module has a group of commands: their help, and what they do.
"""
