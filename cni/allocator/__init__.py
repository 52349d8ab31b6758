"""Which sandbox holds which address, and what to ask of EC2 next.

The allocator decides and never performs: it knows no clock, socket, SDK, logger or random
number. A driver (the daemon, or the simulator) asks it for the next action, performs it, and
tells it the outcome; `now` is an argument of every question. May import the standard
library's data types only.
"""
