"""Tests beside real servers on this machine, and over a line that is as slow, and as bad, as one likes."""
